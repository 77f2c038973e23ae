"""Where the field's data sets are published, and what their files' sha256 is.

No publisher names one: those given here are what public projects that use the files have recorded, counterfact's and
zsre's several of them. Where none was found, `sha256` is None: the first download is trusted and its sha256 kept beside
the file, so that every later one is checked against it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A file at an address, and the sha256 of its content where it is known."""

    address: str
    sha256: str | None = None

    @property
    def file(self) -> str:
        """The name under which it is kept."""
        return self.address.rpartition("/")[2]


@dataclass(frozen=True)
class Source:
    """A data set to fetch. schema: in which it is read; None for facts to trace. licence: as its source states it.

    A set of one file is read as that file, one of several as the folder that holds them.
    """

    name: str
    schema: str | None
    files: tuple[Published, ...]
    licence: str


_ROME = "https://rome.baulab.info/data/dsets"
_MQUAKE = "https://raw.githubusercontent.com/princeton-nlp/MQuAKE/fb43dadc2d8cd19d08ce81c63d957b59deb3f3cd/datasets"
_KNOWEDIT = "https://huggingface.co/datasets/zjunlp/KnowEdit/resolve/main/benchmark"
_QAEDIT = "https://raw.githubusercontent.com/WanliYoung/Revisit-Editing-Evaluation/main/data"
_RIPPLE = "https://github.com/edenbiran/RippleEdits/raw/main/data/benchmark"
_LRE = "https://lre.baulab.info/data/factual"
_RELATIONS = """
    city_in_country company_ceo company_hq country_capital_city country_currency country_language country_largest_city
    food_from_country landmark_in_country landmark_on_continent person_band_lead_singer person_father person_mother
    person_native_language person_occupation person_plays_instrument person_plays_position_in_sport
    person_plays_pro_sport person_university pokemon_evolutions presidents_birth_year presidents_election_year
    product_by_company star_constellation superhero_archnemesis superhero_person
"""


def _one(name: str, schema: str | None, address: str, sha256: str | None, licence: str) -> Source:
    return Source(name, schema, (Published(address, sha256),), licence)


_LISTED = (
    _one(
        "counterfact",
        "counterfact",
        f"{_ROME}/counterfact.json",
        "d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f",
        "MIT (ROME)",
    ),
    _one(
        "zsre",
        "zsre",
        f"{_ROME}/zsre_mend_eval.json",
        "8a371d512f8a6ab175db4ef672181d5c0e52da23298cb51e5a2eeea2f89aa9cd",
        "MIT (ROME)",
    ),
    _one("known_1000", None, f"{_ROME}/known_1000.json", None, "MIT (ROME)"),
    _one(
        "mquake",
        "mquake",
        f"{_MQUAKE}/MQuAKE-CF-3k-v2.json",
        "f82091cbb668cef8f2537f79f1768af1840184450b347ff8c344336090ddc71e",
        "MIT",
    ),
    _one(
        "mquake-t",
        "mquake",
        f"{_MQUAKE}/MQuAKE-T.json",
        "58500a1d4aaf9e036c23a1d9dd6be2d73d693e35a695614842f211ea5aff59f2",
        "MIT",
    ),
    _one(
        "knowedit-counterfact",
        "knowedit",
        f"{_KNOWEDIT}/wiki_counterfact/test_cf.json",
        "efc01ba398dfe04975939f729aab45523addb3c6b3cf41d7429ba5de1d45225b",
        "MIT (KnowEdit)",
    ),
    _one("knowedit-recent", "knowedit", f"{_KNOWEDIT}/wiki_recent/recent_test.json", None, "MIT (KnowEdit)"),
    _one("knowedit-zsre", "knowedit", f"{_KNOWEDIT}/ZsRE/ZsRE-test-all.json", None, "MIT (KnowEdit)"),
    _one("qaedit", "qaedit", f"{_QAEDIT}/QAEdit.json", None, "not stated"),
    _one("ripple-popular", "ripple", f"{_RIPPLE}/popular.json", None, "MIT"),
    _one("ripple-random", "ripple", f"{_RIPPLE}/random.json", None, "MIT"),
    _one("ripple-recent", "ripple", f"{_RIPPLE}/recent.json", None, "MIT"),
    Source("lre", "lre", tuple(Published(f"{_LRE}/{relation}.json") for relation in _RELATIONS.split()), "MIT (LRE)"),
)

SOURCES = {source.name: source for source in _LISTED}
"""By name."""
