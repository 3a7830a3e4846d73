#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does the document on stdin keep to a published schema? usage: schema-check.py SCHEMA-FILE"""
import json
import sys

try:
    import jsonschema
except ImportError:
    print("python3-jsonschema is not installed", file=sys.stderr)
    sys.exit(77)

validator = jsonschema.Draft202012Validator(json.load(open(sys.argv[1], encoding="utf-8")))
errors = [f"{list(e.path)}: {e.message}" for e in validator.iter_errors(json.load(sys.stdin))]
print("\n".join(errors), end="\n" if errors else "", file=sys.stderr)
sys.exit(1 if errors else 0)
