#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Breaks when a published JSON schema and the parser in C disagree about a document, or an example is refused.

Every node of each example is deleted, replaced and given an unknown neighbour; for what the parser reads, schema and parser
must then say the same.

usage: unit-schema.py DOCUMENT-CHECK EXAMPLES-FOLDER SCHEMA...
"""
import copy
import json
import os
import subprocess
import sys

try:
    import jsonschema
except ImportError:
    print("python3-jsonschema is not installed")
    sys.exit(77)

PARSERS = {"writer-metadata": "metadata", "manifest": "manifest", "backup-test": "backup-test"}
REPLACEMENTS = [None, 17, -1, True, "zzz", "", "/a/../b", "/a\\x5cb", "/\\x2e\\x2e", "a\nb", [], {}, [{}], ["zzz"], [1]]
FEWEST = 300  # changed documents per example, or the mutations are broken


def nodes(value, path=()):
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from nodes(child, path + (key,))


def parent_of(document, path):
    for key in path[:-1]:
        document = document[key]
    return document


def get(document, path):
    for key in path:
        document = document[key]
    return document


def changed(document):
    """Yields (what was done, the document after it)."""
    for path in nodes(document):
        if isinstance(get(document, path), dict):
            other = copy.deepcopy(document)
            get(other, path)["unheard_of"] = 1
            yield f"unknown key in {path}", other
        if not path:
            continue
        other = copy.deepcopy(document)
        del parent_of(other, path)[path[-1]]
        yield f"without {path}", other
        for replacement in REPLACEMENTS:
            other = copy.deepcopy(document)
            parent_of(other, path)[path[-1]] = copy.deepcopy(replacement)
            yield f"{path} = {replacement!r}", other


def parse(program, parser, documents):
    text = "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents)
    result = subprocess.run([program, parser], input=text, capture_output=True, text=True, check=True)
    verdicts = result.stdout.splitlines()
    assert len(verdicts) == len(documents), "the parser did not answer for every document"
    return verdicts


def compare(program, name, validator, example):
    errors = []
    cases = list(changed(example))
    if len(cases) < FEWEST:
        errors.append(f"{name}: only {len(cases)} changed documents")
    accepted = [validator.is_valid(document) for _, document in cases]
    if all(accepted) or not any(accepted):
        errors.append(f"{name}: the schema gives one verdict for everything")
    if name in PARSERS:
        verdicts = parse(program, PARSERS[name], [document for _, document in cases])
        for (what, _), schema_says, parser_says in zip(cases, accepted, verdicts):
            if schema_says != (parser_says == "ok"):
                errors.append(f"{name}: {what}: schema {'accepts' if schema_says else 'refuses'}, parser: {parser_says}")
    return errors, len(cases)


def main():
    program, folder, schemas = sys.argv[1], sys.argv[2], sys.argv[3:]
    errors = []
    for path in schemas:
        name = os.path.basename(path).split(".")[0]
        schema = json.load(open(path, encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        example = json.load(open(os.path.join(folder, name + ".json"), encoding="utf-8"))
        errors += [f"{name}: the example: {e.message} at {list(e.path)}" for e in validator.iter_errors(example)]
        found, n = compare(program, name, validator, example)
        errors += found
        print(f"{name}: {n} changed documents, {len(found)} disagreements")
    print("\n".join(errors))
    return 1 if errors or not schemas else 0


if __name__ == "__main__":
    sys.exit(main())
