"""Reads pytest's JUnit file and fails unless tests across accounts ran and none of them was skipped.

A machine without root or sudo skips them, and a green run there says nothing about the thing Corral is for.
"""

import sys
import xml.etree.ElementTree as ET


def cross_account(case: ET.Element) -> bool:
    """Tell whether the test carries the property that tests/conftest.py gives to those marked cross_account."""
    return any(entry.get("name") == "cross_account" for entry in case.iter("property"))


def main(junit: str) -> int:
    """Print what ran, and return the exit status."""
    cases = [case for case in ET.parse(junit).iter("testcase") if cross_account(case)]
    skipped = [case for case in cases if case.find("skipped") is not None]
    for case in skipped:
        print(f"skipped: {case.get('classname')}::{case.get('name')}: {case.find('skipped').get('message')}")
    print(f"{len(cases)} tests across accounts, {len(skipped)} skipped")
    if not cases:
        print("no test across accounts was run at all")
    return 1 if skipped or not cases else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
