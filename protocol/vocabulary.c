#include "protocol/vocabulary.h"
