#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The rules of the tree that a compiler does not hold. One function per rule; each yields complaints "where: what".
Run from anywhere: tests/lint/check.py [RULE…]. Prints PASS or FAIL lint/RULE, ends with 1 if one failed.
"""
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
FOLDERS = ["daemon", "providers", "writers", "protocol", "client", "tests", "units", ".ci"]
FUNCTION_LINES = 70
FILE_LINES = 600
COLUMNS = 120
ROWS = 148

# who may include whom; the rest are the contracts between processes
INCLUDES = {
    "protocol": {"protocol"},
    "daemon": {"daemon", "protocol"},
    "providers": {"providers", "protocol"},
    "writers": {"writers", "protocol"},
    "client": {"client", "protocol"},
    "tests": {"tests", "daemon", "providers", "writers", "client", "protocol"},
}
INCLUDE_EXCEPTIONS = {
    ("daemon", "providers/wire.h"),
    ("daemon", "providers/vss-provider.h"),
    ("daemon", "providers/directory.h"),
    ("daemon/provider-host.c", "providers/loader.h"),
}
# see the head of rows.md: these rows are shown, unless they need one of GOOD_REASONS
GOOD_REASONS = {"built-in engine", "real host", "database writers"}
# rows of that range that belong to a later capability as a whole
LATER = {30, 67, 114, 145}
MUST_BE_SHOWN = [*range(1, 34), *range(51, 69), 74, *range(93, 103), *range(110, 120), *range(145, 149)]
MAY_WAIT_FOR = GOOD_REASONS | {"backup conversation", "restore", "life cycle", "scripts and shares", "storage areas"}


def files(*suffixes, folders=None):
    for folder in folders or FOLDERS:
        for root, dirs, names in os.walk(os.path.join(TOP, folder)):
            dirs[:] = sorted(d for d in dirs if not d.startswith("build") and d != "__pycache__")
            for name in sorted(names):
                if name.endswith(suffixes) if suffixes else True:
                    yield os.path.relpath(os.path.join(root, name), TOP)


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8", errors="replace") as f:
        return f.read()


def is_shell(path):
    return path.endswith(".sh") or read(path).startswith("#!/bin/bash")


def scripts():
    top = [p for p in files() if "." not in os.path.basename(p) or p.endswith(".sh")]
    return [p for p in top if is_shell(p)]


def run(*argv):
    return subprocess.run(argv, cwd=TOP, capture_output=True, text=True, check=False, timeout=120)


def rule_format():
    """formatting as tests/lint/style.clang-format says; tests/lint/format applies it"""
    sources = list(files(".c", ".h"))
    result = run("clang-format", "--style=file:tests/lint/style.clang-format", "--dry-run", "-Werror", *sources)
    seen = set()
    for line in result.stderr.splitlines():
        found = re.match(r"(.+?):(\d+):\d+: error: ", line)
        if found and found[1] not in seen:
            seen.add(found[1])
            yield f"{found[1]}:{found[2]}: formatting (and perhaps further down); run tests/lint/format {found[1]}"
    if result.returncode and not seen:
        yield result.stderr.strip()[:500]


def functions(text):
    """(name, first line, number of lines) of each function: the style puts its ends into column 0"""
    start = name = None
    pending = None
    for number, line in enumerate(text.splitlines(), 1):
        if start is None:
            if line and not line[0].isspace() and line[0] not in "#/*{}":
                pending = number
            if line.endswith("{") and pending and (found := re.search(r"(\w+)\(", "".join(text.splitlines()[pending - 1 : number]))):
                first = text.splitlines()[pending - 1]
                if not re.match(r"(struct|enum|union|typedef)\b[^()]*\{", first) and not re.search(r"=\s*\{?$", line):
                    start, name = pending, found[1]
        elif line.startswith("}"):
            yield name, start, number - start + 1
            start = pending = None


def rule_length():
    """functions of at most 70 lines, files of at most 600, lines of at most 120 columns"""
    for path in files(".c", ".h", ".sh", ".py"):
        text = read(path)
        lines = text.splitlines()
        if len(lines) > FILE_LINES:
            yield f"{path}: {len(lines)} lines, at most {FILE_LINES}"
        if path.endswith((".c", ".h")):
            for name, start, length in functions(text):
                if length > FUNCTION_LINES:
                    yield f"{path}:{start}: {name}() has {length} lines, at most {FUNCTION_LINES}"
            for number, line in enumerate(lines, 1):
                if len(line.expandtabs(8)) > COLUMNS and '"' not in line:
                    yield f"{path}:{number}: {len(line)} columns, at most {COLUMNS}"


def rule_includes():
    """includes go down: everybody may use protocol, nobody another part; paths are from the root"""
    for path in files(".c", ".h"):
        folder = path.split("/")[0]
        for number, line in enumerate(read(path).splitlines(), 1):
            found = re.match(r'#include "([^"]+)"', line)
            if not found or found[1] == "config.h":
                continue
            target = found[1]
            if not os.path.exists(os.path.join(TOP, target)):
                yield f'{path}:{number}: "{target}" is not a path from the root'
            elif target.split("/")[0] not in INCLUDES[folder] and not (
                {(folder, target), (path, target)} & INCLUDE_EXCEPTIONS
            ):
                yield f'{path}:{number}: {folder} must not include "{target}"'


def has_doc(element):
    if any(child.tag.endswith(("doc", "}doc")) for child in element):
        return True
    return any("Doc" in (a.get("name") or "") and a.get("value") for a in element.findall("annotation"))


def rule_dbus():
    """every interface and member of the bus is documented, and the XML is well formed"""
    for path in files(".xml", folders=["protocol"]):
        text = read(path)
        try:
            parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
            root = ET.fromstring(text, parser=parser)
        except ET.ParseError as error:
            yield f"{path}: {error}"
            continue
        for parent in root.iter():
            comment_before = False
            for element in parent:
                if not isinstance(element.tag, str):
                    comment_before = True
                    continue
                if element.tag in ("interface", "method", "signal", "property") and not (comment_before or has_doc(element)):
                    yield f"{path}: {element.tag} {element.get('name')} is not documented"
                comment_before = False


def rule_paths():
    """no path of the machine it was written on, no open ends"""
    words = re.compile(r"/(?:home|work|root)/[a-z]|\b(?:TODO|FIXME|XXX+)\b")
    for path in [*files(), "README.md", "meson.build"]:
        if path in ("tests/lint/check.py",) or not os.path.exists(os.path.join(TOP, path)):
            continue
        for number, line in enumerate(read(path).splitlines(), 1):
            found = words.search(re.sub(r"X{4,}", "", line))
            if found:
                yield f"{path}:{number}: {found[0]}"


def rule_license():
    """the first line (after #! or <?xml) is the SPDX line"""
    skipped = (".json", ".md", ".svg", ".golden")
    for path in [*files(), "meson.build"]:
        if path.endswith(skipped) or "/corpus" in path or "__pycache__" in path:
            continue
        head = read(path).splitlines()[:3]
        if head and head[0].startswith(("#!", "<?xml", "<!DOCTYPE", "<!--", "'\\\"")):
            head = head[:3]
        else:
            head = head[:1]
        if not any("SPDX-License-Identifier: LGPL-2.1-or-later" in line for line in head):
            yield f"{path}: no SPDX line at the top"


def rule_manual():
    """man pages pass mandoc -T lint"""
    for path in files(".1", ".3", ".5", ".7", ".8"):
        result = run("mandoc", "-T", "lint", "-W", "warning", path)
        # a date in a page says when somebody last thought of the date
        yield from (line for line in result.stdout.splitlines() if line and "missing date" not in line)


def rule_shell():
    """shell scripts pass shellcheck"""
    if found := scripts():
        result = run("shellcheck", "-x", "-S", "warning", "-e", "SC2154,SC2034", "-f", "gcc", *found)
        yield from (line for line in result.stdout.splitlines() if line)


def registered_tests():
    return set(re.findall(r"'((?:unit|bus|contract|fault|fuzz|system|idle|bench)-[a-z0-9-]+)'", read("tests/meson.build")))


def rule_tests():
    """every test file is registered in tests/meson.build"""
    known = registered_tests()
    for path in files(".c", ".sh", ".py", folders=["tests"]):
        name = os.path.splitext(os.path.basename(path))[0]
        if re.match(r"(unit|bus|contract|fault|fuzz|system|idle|bench)-", name) and name not in known:
            yield f"{path} is not registered in tests/meson.build"
    for name in known:
        if not any(os.path.exists(os.path.join(TOP, "tests", name + s)) for s in (".c", ".sh", ".py")):
            yield f"tests/meson.build: {name} has no source"


def check_row_test(number, reference, known):
    name, _, part = reference.partition(":")
    if name.startswith("vm/"):
        name = name.replace("vm/", "vm/guest/")
    elif name not in known:
        return f"row {number}: there is no test {name}"
    for suffix in (".c", ".sh"):
        path = f"tests/{name}{suffix}"
        if os.path.exists(os.path.join(TOP, path)):
            if part and not re.search(rf"\b{re.escape(part)}\b", read(path)):
                return f"row {number}: {path} has no {part}"
            return None
    return f"row {number}: {name} has no source"


def rule_rows():
    """tests/rows.md names for each of the 148 rows a test that exists, what it waits for, or why it has no meaning"""
    rows = {}
    for line in read("tests/rows.md").splitlines():
        found = re.match(r"\| *(\d+) *\|([^|]*)\|([^|]*)\|$", line)
        if found:
            number = int(found[1])
            if number in rows:
                yield f"row {number} stands twice"
            rows[number] = found[3].strip()
    known = registered_tests()
    for number in range(1, ROWS + 1):
        text = rows.get(number)
        if not text:
            yield f"row {number} is missing"
            continue
        shown = re.findall(r"`((?:[a-z]+-|vm/)[^`]+)`", text)
        waits = re.search(r"waits for: ([a-z -]+)", text)
        if not (shown or waits or "no meaning:" in text):
            yield f"row {number} says neither a test, nor \"waits for: …\", nor \"no meaning: …\""
        for reference in shown:
            if complaint := check_row_test(number, reference, known):
                yield complaint
        if waits and waits[1].strip() not in MAY_WAIT_FOR:
            yield f"row {number} waits for something unknown: {waits[1]}"
        if number in MUST_BE_SHOWN and number not in LATER and not shown and waits and waits[1].strip() not in GOOD_REASONS:
            yield f"row {number} has to be shown"


RULES = [
    rule_format,
    rule_length,
    rule_includes,
    rule_dbus,
    rule_paths,
    rule_license,
    rule_manual,
    rule_shell,
    rule_tests,
    rule_rows,
]


def main():
    chosen = sys.argv[1:]
    status = 0
    for rule in RULES:
        name = rule.__name__[5:]
        if chosen and name not in chosen:
            continue
        try:
            complaints = list(rule())
        except (OSError, subprocess.SubprocessError) as error:
            complaints = [str(error)]
        for complaint in complaints:
            print(f"{name}: {complaint}")
        print(f"{'FAIL' if complaints else 'PASS'} lint/{name} {rule.__doc__}")
        status |= bool(complaints)
    return status


sys.exit(main())
