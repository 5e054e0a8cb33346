"""Assessors: versioned, deterministic, integer-only programs that score an asset.

`assess(files, category, options, earlier)` gives a score card (`Report`) and a private fingerprint with which
later assets are compared. Two reviewers with the same bytes get the same report, to the last bit: no clock,
chance, float, model or network; no text of the data in the report. How: ADR 0010.
"""

from idao.assess.earlier import Earlier
from idao.assess.forms import detect_category
from idao.assess.registry import ASSESSORS, CATEGORIES, assess, assessor_for, code_hash
from idao.assess.report import (
    AssessFile,
    Assessment,
    Coverage,
    Fingerprint,
    Options,
    Reason,
    Report,
    explain,
)

__all__ = [
    "ASSESSORS",
    "CATEGORIES",
    "AssessFile",
    "Assessment",
    "Coverage",
    "Earlier",
    "Fingerprint",
    "Options",
    "Reason",
    "Report",
    "assess",
    "assessor_for",
    "code_hash",
    "detect_category",
    "explain",
]
