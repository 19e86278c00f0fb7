"""Plans in words: every mode says what comes back, what is computed again, and how long it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from support.manifests import manifest
from torpor.state.fingerprint import Fingerprint
from torpor.state.plan import Conditions, RestorePlan, TargetState, plan_restore, refused
from torpor.state.plan_words import Code, about, images_in, say
from torpor.state.rates import Rates

PICTURE = {"data": {"$bytes": {"size_bytes": 1, "data": "AA=="}}, "media_type": "image/png"}
SAVED = manifest(
    layers={"metadata": {}, "text_context": {}, "tokens": {}, "media": [PICTURE] * 2, "vision_cache": {}},
    media_spans=((1, 20), (22, 40)),
)
RATES = Rates({"read": (0.0, 0.0), "prefill": (0.0, 0.5, 0.0), "encode": (1.0, 0.0), "fetch": (0.0, 0.01)})
SAME, OTHER = TargetState(SAVED.fingerprint), TargetState(Fingerprint(*[f"another part {i}" for i in range(12)]))


def planned(target: TargetState, **conditions: object) -> RestorePlan:
    return plan_restore(SAVED, target, Conditions(rates=RATES, **conditions))  # type: ignore[arg-type]


def words(plan: RestorePlan, images: int = 2) -> str:
    return say(plan, images=images).sentence


def test_everything() -> None:
    assert words(planned(SAME)) == "everything comes back, under a second"


def test_a_cache_that_is_cut() -> None:
    plan = planned(SAME, missing=frozenset(["b" * 64]))
    assert plan.mode == "prefix"
    assert (
        words(plan)
        == "2 images and the text come back, 64 tokens are ready at once, 2 tokens are prefilled again, about 1 s"
    )


def test_another_model() -> None:
    plan = planned(OTHER)
    assert plan.mode == "media"
    assert words(plan) == (
        "2 images and the text come back, 2 images are looked at again, 66 tokens are prefilled again, about 35 s"
    )


def test_what_is_lost_says_why() -> None:
    lost = replace(planned(OTHER), mode="text-only")
    gone = {**lost.layers, "media": ("drop", "2 of its blobs are missing or damaged")}
    said = say(replace(lost, layers=gone), images=2)  # type: ignore[arg-type]
    assert said.sentence.startswith(
        "the text comes back, 66 tokens are prefilled again, the images cannot come back (2 of"
    )
    assert [phrase.values for phrase in said.phrases if phrase.code == "lost"] == [
        {"layer": "media", "reason": "2 of its blobs are missing or damaged"}
    ]


def test_what_is_fetched_and_what_nobody_measured() -> None:
    plan = replace(planned(SAME, remote=frozenset(["b" * 64])), estimated_s=None)
    assert words(plan).endswith("64 bytes are fetched from S3, how long it takes was never measured here")


def test_a_refusal_has_its_reason() -> None:
    assert words(refused(SAVED.id, "the manifest is cut short")) == (
        "nothing of it can be restored: the manifest is cut short"
    )


def test_an_assumption_is_told() -> None:
    assert say(planned(SAME), assumed=True).phrases[-1].code == "assumed"
    assert "assumed" not in {phrase.code for phrase in say(planned(SAME)).phrases}


def test_one_of_a_thing_is_no_plural() -> None:
    only = plan_restore(replace(SAVED, kv_cache=None, tokens=1, media_spans=((0, 1),)), OTHER)
    assert words(only, 1).startswith("1 image and the text come back, 1 image is looked at again, how long")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.2, "under a second"),
        (4.4, "about 4 s"),
        (41.7, "about 40 s"),
        (89.9, "about 90 s"),
        (91, "about 2 min"),
        (5000, "about 83 min"),
        (5400, "about 2 h"),
        (40_000, "about 11 h"),
    ],
)
def test_durations(seconds: float, told: str) -> None:
    assert about(seconds) == told


def test_images_are_counted_by_whatever_says_most() -> None:
    assert images_in(SAVED) == 2
    assert images_in(manifest(layers={"media": {"odd": 1}})) == 0
    assert images_in(replace(SAVED, layers={"media": []})) == 2


def test_every_code_has_a_name_of_its_own() -> None:
    assert len(set(get_args(Code))) == len(get_args(Code))
