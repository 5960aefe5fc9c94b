"""License and attribution of drawings, and their wording in cards.

A dataset's manifest holds both where they are known (pipelines.dataset.describe decides), and
artifacts made of a dataset inherit them. Where they are unknown they are absent: nothing is called
Google's, or licensed, without evidence.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

# As the attribution that a user states: strokes and parts of Google's files have no checksum.
QUICKDRAW = "quickdraw"

_QUICKDRAW_TEXT = (
    "The Quick, Draw! Dataset, made available by Google, Inc. under the Creative Commons "
    "Attribution 4.0 International license (CC BY 4.0)."
)
_QUICKDRAW_URL = "https://quickdraw.withgoogle.com/data"
_AND = " AND "
_URLS = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
}
# Licenses that Hugging Face has a name of its own for: "odbl", or the SPDX id in lower case.
_HUB_NAMES = {"ODbL-1.0": "odbl", "ODC-By-1.0": "odc-by", "PDDL-1.0": "pddl"} | {
    name: name.lower()
    for name in (
        *("Apache-2.0", "BSD-3-Clause", "CC0-1.0", "MIT", "Unlicense"),
        *("CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0"),
        *("CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-ND-4.0"),
        *("CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0"),
        *("CC-BY-NC-SA-2.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0"),
        *("CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """License and attribution; a field is empty if unknown.

    license      SPDX ids joined by " AND ": all of them hold
    attribution  the text that goes along with the drawings and what is made of them
    """

    license: str = ""
    attribution: str = ""

    @property
    def is_quickdraw(self) -> bool:
        """Whether some of the drawings are Google's."""
        return _QUICKDRAW_TEXT in self.attribution

    @property
    def statement(self) -> str:
        """The sentences of a card: attribution and license, or that they are not stated."""
        if not self.license and not self.attribution:
            return (
                "License and attribution of the source drawings are not stated; "
                "`sketchmill build` states them with `--license` and `--attribution`."
            )
        if not self.license:
            return (
                f"{self.attribution} No license is stated for the source drawings as a whole; "
                "`sketchmill build` states it with `--license`."
            )
        named = _AND.join(_with_url(name) for name in self.license.split(_AND))
        return f"{self.attribution} License: {named}.".strip()

    def to_json(self) -> dict[str, str]:
        """Return the fields of a manifest's summary: those that are stated."""
        fields = {"license": self.license, "attribution": self.attribution}
        return {name: text for name, text in fields.items() if text}

    def hub_lines(self) -> list[str]:
        """Return the license in the YAML of a Hugging Face card."""
        names = self.license.split(_AND) if self.license else []
        if not names:
            return ["license: unknown"]
        if any(name not in _HUB_NAMES for name in names):
            name = re.sub("[^a-z0-9.]+", "-", self.license.lower())
            return ["license: other", f"license_name: {name}"]
        if len(names) == 1:
            return [f"license: {_HUB_NAMES[names[0]]}"]
        return ["license:", *(f"- {_HUB_NAMES[name]}" for name in names)]

    def hub_tags(self) -> list[str]:
        """Return the tags of a Hugging Face card, the keywords of croissant.json."""
        return ["quickdraw", "sketches"] if self.is_quickdraw else ["sketches"]

    def croissant(self) -> dict[str, Any]:
        """Return license and home page in Croissant, those that are known."""
        found: dict[str, Any] = {}
        if self.license:
            places = [_url(name) for name in self.license.split(_AND)]
            found["license"] = places[0] if len(places) == 1 else places
        return found | ({"url": _QUICKDRAW_URL} if self.is_quickdraw else {})

    def tfds(self) -> dict[str, Any]:
        """Return citation and license in a TFDS dataset_info.json, those that are known."""
        found: dict[str, Any] = {"citation": self.attribution} if self.attribution else {}
        return found | ({"redistributionInfo": {"license": self.license}} if self.license else {})

    def cite_as(self, what: str) -> str:
        """Return the attribution and what else is to be named: a sentence about a digest."""
        return f"{self.attribution} {what}".strip()


UNSTATED = Credit()
GOOGLES = Credit(license="CC-BY-4.0", attribution=_QUICKDRAW_TEXT)
# They come of the program's own shapes alone, so its license is the one that there is.
DOODLES = Credit(
    license="Apache-2.0",
    attribution="Drawings made by sketchmill's doodle program; not part of Quick, Draw!.",
)


def credit_of(summary: Mapping[str, Any]) -> Credit:
    """Return what a manifest's summary states; before there were licenses, what it implied."""
    attribution = str(summary.get("attribution", ""))
    implied = GOOGLES.license if attribution == GOOGLES.attribution else ""
    return Credit(license=str(summary.get("license", implied)), attribution=attribution)


def both(one: Credit, other: Credit) -> Credit:
    """Return what holds where two statements do: each license, each text, once."""
    licenses = [name for each in (one, other) if each.license for name in each.license.split(_AND)]
    texts = [each.attribution for each in (one, other) if each.attribution]
    return Credit(
        license=_AND.join(dict.fromkeys(licenses)), attribution=" ".join(dict.fromkeys(texts))
    )


def parse_license(text: str) -> str:
    """Return SPDX ids joined by AND as SPDX writes them; "" stays "".

    >>> parse_license("cc-by-4.0"), parse_license("mit and LicenseRef-ours")
    ('CC-BY-4.0', 'MIT AND LicenseRef-ours')

    Raises ValueError for other text.
    """
    if not text.strip():
        return ""
    try:
        ids = str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        ids = "("
    if any(re.search(r"[ ()]", name) for name in ids.split(_AND)):
        raise ValueError(
            f"license {text!r} is no id of SPDX: write one of https://spdx.org/licenses such as "
            "CC-BY-4.0, LicenseRef-NAME for one that is not there, or several joined by AND"
        )
    return ids


def parse_attribution(text: str) -> str:
    """Return the text without blanks around it; raise ValueError if it is not one line."""
    cleaned = text.strip()
    if not cleaned.isprintable():
        raise ValueError(f"attribution {text!r} must be one line of text without control codes")
    return QUICKDRAW if cleaned.lower() == QUICKDRAW else cleaned


def _url(license_id: str) -> str:
    """Return where a license can be read; of one that SPDX does not know, its name."""
    if license_id.startswith("LicenseRef-"):
        return license_id
    return _URLS.get(license_id, f"https://spdx.org/licenses/{license_id}.html")


def _with_url(license_id: str) -> str:
    url = _url(license_id)
    return license_id if url == license_id else f"{license_id} ({url})"
