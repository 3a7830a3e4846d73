#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""introspection.py XML-FILE INTERFACE <INTROSPECTION: what the running object says is what the contract says.

Compares every member of one interface: names, argument names, types and directions, access, annotations. The order of members
does not count. Prints each difference; status 1 if there is one.
"""
import sys
import xml.etree.ElementTree as tree

STANDARD = {"org.freedesktop.DBus.Property.EmitsChangedSignal": "true"}


def annotations(node):
    found = {a.get("name"): a.get("value") for a in node.findall("annotation")}
    return {k: v for k, v in found.items() if STANDARD.get(k) != v}


def describe(node):
    if node.tag == "property":
        return (node.get("type"), node.get("access"), annotations(node))
    direction = {"method": "in", "signal": "out"}[node.tag]
    args = [(a.get("name"), a.get("type"), a.get("direction", direction)) for a in node.findall("arg")]
    return (args, annotations(node))


def members(root, interface):
    for i in root.iter("interface"):
        if i.get("name") == interface:
            return {(n.tag, n.get("name")): describe(n) for n in i if n.tag in ("method", "signal", "property")}
    return None


def main():
    name = sys.argv[2]
    want = members(tree.parse(sys.argv[1]).getroot(), name)
    got = members(tree.fromstring(sys.stdin.read()), name)
    if want is None or got is None:
        print(f"{name}: missing in {'the contract' if want is None else 'the running object'}")
        return 1
    differences = [f"{name}: {kind} {member}: contract {want.get((kind, member))}, running {got.get((kind, member))}"
                   for kind, member in sorted(want.keys() | got.keys())
                   if want.get((kind, member)) != got.get((kind, member))]
    print("\n".join(differences) or f"{name}: {len(want)} members agree")
    return 1 if differences or not want else 0


sys.exit(main())
