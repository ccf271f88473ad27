"""The HH-RLHF harmless-base test file, which is not part of the project: FORGE_HH points to it."""

import os

import pytest

from rlhf_forge.inspection.inspect import Settings, inspect
from rlhf_forge.inspection.reading import Source
from rlhf_forge.inspection.rules import BY_CODE

PATH = os.environ.get("FORGE_HH", "")
FOUND = {
    "PREF103": [1255, 1689, 1951, 1953, 2037],
    "PREF203": [87, 517, 926, 1104],
    "PREF104": [668, 764, 1320, 1850],
    "PREF210": [
        *(22, 48, 344, 356, 357, 718, 722, 860, 937, 1039, 1083, 1118, 1603, 1861, 2120, 2142),
        *(2203, 2292),
    ],
    "PREF501": [
        *(30, 106, 141, 147, 198, 208, 233, 266, 370, 478, 481, 509, 564, 572),
        *(680, 804, 807, 823, 892, 967, 997, 1022, 1047, 1220, 1334, 1370, 1411, 1457),
        *(1503, 1533, 1561, 1595, 1870, 1954, 1995, 2021, 2085, 2172, 2261),
    ],
    "PREF306": [1453, 1484],
    "PREF307": [362, 746, 1161, 1708, 1930, 2082, 2257, 2298],
}

pytestmark = pytest.mark.skipif(not PATH, reason="FORGE_HH does not point to the file")


def test_what_the_page_lists_is_what_is_found() -> None:
    settings = Settings(codes=frozenset(BY_CODE) - {"PREF403"})
    found = inspect([Source(PATH)], settings)
    lines = {
        f.code: sorted(int(found.ledger.origin(row).rpartition(":")[2]) for row in f.rows.tolist())
        for f in found.findings
        if len(f.rows)
    }
    assert lines == FOUND
