#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Breaks when an interface file is malformed, a member or argument is not documented, or a method has no room to grow.

usage: unit-xml.py RNG MANPAGE FILE...
"""
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

# Methods whose last argument is not a dictionary of options: the events of a writer carry their session instead.
LAST_ARGUMENT = {"Writer": {"Identify": "context", None: "session"}}


def members(path):
    """Yields (element, text of the comment right before it)."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    tree = ElementTree.parse(path, parser)
    for parent in tree.iter():
        comment = None
        for child in parent:
            if child.tag is ElementTree.Comment:
                comment = child.text
                continue
            if child.tag in ("interface", "method", "signal", "property"):
                yield child, comment
            comment = None


def check_documentation(where, element, comment):
    errors = []
    name = element.get("name")
    lines = [line.strip() for line in (comment or "").strip().split("\n")]
    if not lines[0].startswith(name + ":"):
        errors.append(f"{where}: no comment that begins with '{name}:'")
    if not re.fullmatch(r"Since \d+\.\d+", lines[-1]):
        errors.append(f"{where}: its comment does not end with 'Since N.N'")
    documented = [m.group(1) for line in lines if (m := re.match(r"@(\w+):", line))]
    arguments = [a.get("name") for a in element.findall("arg")]
    if documented != arguments:
        errors.append(f"{where}: documents the arguments {documented}, has {arguments}")
    return errors


def check_growth(where, interface, element):
    last = LAST_ARGUMENT.get(interface, {})
    expected = last.get(element.get("name"), last.get(None, "options"))
    inputs = [(a.get("name"), a.get("type")) for a in element.findall("arg") if a.get("direction") == "in"]
    if not inputs or inputs[-1] != (expected, "a{sv}"):
        return [f"{where}: the last argument is not {expected} a{{sv}}"]
    return []


def check_signatures(where, element):
    errors = []
    for thing in [element] + element.findall("arg"):
        signature = thing.get("type")
        if signature is not None and not is_complete_type(signature):
            errors.append(f"{where}: '{signature}' is not one complete type")
    return errors


def is_complete_type(signature):
    def one(s):
        if s[:1] == "a":
            if s[1:2] == "{":
                if s[2:3] not in "sotudxb" or s[2:3] == "":
                    return None
                rest = one(s[3:])
                return rest[1:] if rest and rest[0] == "}" else None
            return one(s[1:])
        if s[:1] == "(":
            rest = one(s[1:])
            while rest and rest[0] != ")":
                rest = one(rest)
            return rest[1:] if rest else None
        return s[1:] if s[:1] and s[0] in "sbutdohvx" else None
    return one(signature) == ""


def signature(element):
    """The member as the man page writes it: CreateSet(volumes a(sa{sv}), options a{sv}) -> (id s, set o)."""
    def arguments(direction):
        return ", ".join(f"{a.get('name')} {a.get('type')}" for a in element.findall("arg")
                         if a.get("direction", "in") == direction)
    name = element.get("name")
    if element.tag == "property":
        return f"{name} {element.get('type')}"
    return f"{name}({arguments('in')})" + (f" -> ({arguments('out')})" if element.tag == "method" else "")


def check(path, manual):
    errors = []
    interface, section = None, ""
    for element, comment in members(path):
        name = element.get("name")
        if element.tag == "interface":
            interface = name.rsplit(".", 1)[1]
            if path.rsplit("/", 1)[-1] != name + ".xml":
                errors.append(f"{path}: holds {name}")
        where = f"{path}: {name}"
        errors += check_documentation(where, element, comment)
        errors += check_signatures(where, element)
        if element.tag == "method":
            errors += check_growth(where, interface, element)
        if element.tag == "interface":
            section = manual.partition(f"\n.Ss {name}\n")[2].partition("\n.Ss ")[0]
        elif f'\n.It Ic "{signature(element)}"\n' not in section:
            errors.append(f"{where}: not in the man page as {signature(element)}")
    return errors


def main():
    rng, manpage, files = sys.argv[1], sys.argv[2], sys.argv[3:]
    manual = open(manpage, encoding="utf-8").read()
    errors = []
    for path in files:
        grammar = subprocess.run(["xmllint", "--noout", "--nonet", "--relaxng", rng, path], capture_output=True, text=True)
        if grammar.returncode != 0:
            errors.append(grammar.stderr.strip())
        else:
            errors += check(path, manual)
    print("\n".join(errors) or f"{len(files)} interfaces are well-formed and documented")
    return 1 if errors or not files else 0


if __name__ == "__main__":
    sys.exit(main())
