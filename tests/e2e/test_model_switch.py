"""A session goes from one model to a really different one and back: nothing is uploaded, nothing is cut silently."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.daemon import Daemon
from support.pictures import png
from support.switching import ASK, TOOLS, chat, fed, kv, model_a, model_b, options, shown, target_of, write
from torpor.adapters.demo_model import Loaded, picture, small_model
from torpor.adapters.transformers import Media, TransformersSession, TransformersTarget
from torpor.client import Keeper
from torpor.state.errors import ContextTooLong, RestoreRefused
from torpor.state.manifest import layer_blobs
from transformers import Qwen3Config, Qwen3ForCausalLM


@pytest.fixture
def keeper(shared_daemon: Daemon) -> Any:
    with shared_daemon.keeper() as keeper:
        yield keeper


def says(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def switch(keeper: Keeper, name: str, session: TransformersSession, to: Loaded, **options: Any) -> TransformersSession:
    """Save a session and wake it in another model."""
    keeper.save(name, session).wait(60)
    return keeper.restore(name, target_of(to), **options).session


def go_on(session: TransformersSession, loaded: Loaded, tokens: int = 8) -> tuple[list[int], torch.Tensor]:
    torch.manual_seed(9)
    out = session.generate(output_logits=True, **options(loaded, tokens))
    return session.token_ids[0, -tokens:].tolist(), torch.stack(out.logits)


def test_there_and_back(keeper: Keeper) -> None:
    """Thinking, a call of a tool and a picture under A; a new picture under B; A goes on from its own ids."""
    a, b = model_a(), model_b()
    session = chat(a, ASK, tools=TOOLS)
    write(session, '<think>\nI must look closer.\n</think>\n\nWait.\n<tool_call>\n{"name": "zoom", "arguments": {"x":3}}\n'
          "</tool_call>", end=True)  # fmt: skip
    session.say(session.finish() and says("tool", "a red circle"))
    write(session, "<think>\nRed, so a sun.\n</think>\n\nA sun.", end=True)
    session.finish()
    session.say(says("user", "Sure?"))
    session.generate(**options(a))
    session.finish()
    first = keeper.save("there", session).wait(60)
    ids, before = session.token_ids.clone(), kv(session, session.cache.get_seq_length())
    assert [m["role"] for m in session.conversation] == ["user", "assistant", "tool", "assistant", "user", "assistant"]

    assert keeper.plan("there", target_of(b)).mode == "media"
    woken = keeper.restore("there", target_of(b))
    under_b = woken.session
    assert (woken.mode, woken.plan.tokens_prefill) == ("media", under_b.token_ids.shape[-1])
    assert shown(under_b).startswith("[start][tools][")
    assert "Wait.[call]zoom({" in shown(under_b)
    assert "a sun" not in shown(under_b)  # B's template drops old thinking; the conversation keeps it
    assert under_b.conversation[3]["reasoning_content"] == "Red, so a sun."
    under_b.say(says("user", "And now?"))
    under_b.reply(**options(b))
    under_b.say(
        says("user", [{"type": "text", "text": "Compare:"}, {"type": "image"}]), media=[Media(picture(90), "image/png")]
    )
    under_b.reply(**options(b))
    second = keeper.save("there", under_b).wait(60)
    assert second.parent_id == first.id

    plan = keeper.plan("there", target_of(a))
    back = keeper.restore("there", target_of(a))
    assert (plan.mode, plan.base_id, plan.tokens_reused) == ("prefix", first.id, ids.shape[-1] - 1)
    assert (back.plan.tokens_reused, back.plan.tokens_prefill) == (plan.tokens_reused, plan.tokens_prefill)
    assert any(first.id in note for note in plan.notes)
    again = back.session
    assert torch.equal(again.token_ids[:, : ids.shape[-1]], ids)
    assert again.token_ids.shape[-1] == plan.tokens_reused + plan.tokens_prefill
    assert "Red, so a sun." in shown(again)
    assert all(torch.equal(x, y) for x, y in zip(kv(again, ids.shape[-1] - 1), before, strict=True))
    assert again.conversation == under_b.conversation
    assert [m.data for m in again.media] == [m.data for m in under_b.media]
    assert again.image_grid_thw.tolist() == [[1, 8, 8], [1, 6, 6]]  # type: ignore[union-attr]
    again.say(says("user", "Thanks."))
    expected = again.token_ids.shape[-1] - (ids.shape[-1] - 1)
    with fed(a.model) as counts:
        again.generate(**options(a, 4))
    assert counts == [expected, 1, 1, 1]
    last = keeper.save("there", again).wait(60)
    assert last.parent_id == second.id
    assert keeper.restore("there", target_of(a)).mode == "full"


def test_what_b_says_is_what_it_would_say_from_the_beginning(keeper: Keeper) -> None:
    a, b = model_a(), model_b()
    session = chat(a, ASK)
    session.reply(**options(a))
    session.say(says("user", "Why?"))
    under_b = switch(keeper, "same", session, b)
    by_hand = chat(b, *session.conversation)
    assert torch.equal(under_b.token_ids, by_hand.token_ids)
    assert under_b.image_grid_thw.tolist() == [[1, 8, 8]]  # type: ignore[union-attr]
    mine, theirs = go_on(under_b, b), go_on(by_hand, b)
    assert mine[0] == theirs[0]
    assert torch.equal(mine[1], theirs[1])
    assert len(set(mine[0])) > 3
    blind = chat(b, *session.conversation)
    for tensor in blind.vision["image"].pooler_output:
        tensor.zero_()
    assert not torch.equal(go_on(blind, b)[1], mine[1])  # the picture has a say


@pytest.mark.parametrize("text", ["", "A red ci", "<think>\nI see", "<think>\nI see.\n</think>\n\nIt"])
def test_an_answer_goes_on_in_the_middle(keeper: Keeper, text: str) -> None:
    a, b = model_a(), model_b()
    session = chat(a, ASK)
    if text:
        write(session, text)
    ids = session.token_ids.clone()
    under_b = switch(keeper, f"middle-{len(text)}", session, b)
    assert shown(under_b).endswith(f"picture?[/turn][model]{text}")
    under_b.generate(**options(b))
    halfway = keeper.save(f"middle-{len(text)}", under_b).wait(60)
    message = under_b.finish()
    keeper.save(f"middle-{len(text)}", under_b).wait(60)
    for ref in (halfway.id, f"middle-{len(text)}"):
        back = keeper.restore(ref, target_of(a))
        if text:  # else there was no cache yet to come back to
            assert back.plan.base_id is not None
        assert torch.equal(back.session.token_ids[:, : ids.shape[-1]], ids)
    assert back.session.conversation == [ASK, message]
    thought = "<think>\n" + message["reasoning_content"] + "\n</think>\n\n" if "reasoning_content" in message else ""
    assert shown(back.session) == shown(session) + (thought + message["content"])[len(text) :] + "<|im_end|>\n"
    resumed = keeper.restore(halfway.id, target_of(a)).session
    assert shown(resumed).removeprefix(shown(session)) == shown(under_b).partition("[model]" + text)[2]


def test_an_answer_that_nobody_finished_is_a_message_elsewhere(keeper: Keeper) -> None:
    session = chat(model_a(), ASK)
    write(session, "A circle.", end=True)
    under_b = switch(keeper, "ended", session, model_b())
    assert under_b.conversation == [ASK, says("assistant", "A circle.")]
    assert shown(under_b).endswith("[model]A circle.[/turn]")
    under_b.say(says("user", "Go on"))
    back = switch(keeper, "ended", under_b, model_a())
    assert torch.equal(back.token_ids[:, : session.token_ids.shape[-1]], session.token_ids)
    assert shown(back).endswith("A circle.<|im_end|>\n<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n")


def test_settings_that_name_tokens_stay_with_their_model(keeper: Keeper) -> None:
    a, b = model_a(), model_b()
    session = chat(a, ASK, config={"temperature": 0.5, "suppress_tokens": [5], "tool_call_enabled": True})
    session.generate(**options(a, 2))
    under_b = switch(keeper, "settings", session, b)
    assert {k: under_b.config.get(k) for k in ("temperature", "suppress_tokens", "tool_call_enabled")} == {
        "temperature": 0.5, "suppress_tokens": None, "tool_call_enabled": True,
    }  # fmt: skip
    under_b.config["temperature"] = 0.9
    back = switch(keeper, "settings", under_b, a)
    assert (back.config["temperature"], back.config["suppress_tokens"]) == (0.9, [5])


def test_a_session_that_this_model_never_saw(keeper: Keeper) -> None:
    b, a = model_b(), model_a()
    session = chat(b, says("system", "Be brief."), ASK)
    session.reply(**options(b))
    plan = keeper.plan(keeper.save("new", session).wait(60).id, target_of(a))
    woken = keeper.restore("new", target_of(a))
    assert (woken.mode, woken.plan.base_id, woken.plan.tokens_prefill) == ("media", None, plan.tokens_prefill)
    assert shown(woken.session).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n#What is")
    woken.session.say(says("user", "Hm."))
    woken.session.reply(**options(a))
    back = switch(keeper, "new", woken.session, b)
    assert torch.equal(back.token_ids[:, : session.token_ids.shape[-1]], session.token_ids)


@pytest.mark.parametrize("change", ["gone", "edited", "tools", "picture"])
def test_where_the_way_back_ends(keeper: Keeper, change: str) -> None:
    a, b = model_a(), model_b()
    session = chat(a, ASK)
    session.reply(**options(a))
    first = keeper.save(f"apart-{change}", session).wait(60)
    under_b = keeper.restore(first.id, target_of(b)).session
    under_b.say(says("user", "More."))
    if change == "edited":
        under_b.conversation[1]["content"] = "Edited."
    elif change == "tools":
        under_b.tools = TOOLS
    elif change == "picture":
        under_b.media[0] = Media(png(1, 120))
    second = keeper.save(f"apart-{change}", under_b).wait(60)
    if change == "gone":
        keeper.api.call("DELETE", f"/v1/backups/{first.id}")
    woken = keeper.restore(second.id, target_of(a))
    assert (woken.mode, woken.plan.base_id, woken.plan.tokens_reused) == ("media", None, 0)
    reasons = {
        "gone": "is gone",
        "edited": "another one",
        "tools": "tools are others",
        "picture": "pictures are others",
    }
    reason = reasons[change]
    assert any(reason in note for note in woken.plan.notes)
    assert shown(woken.session).count("More.") == 1
    with pytest.raises(RestoreRefused):
        keeper.restore(second.id, target_of(a), require="prefix")


@pytest.mark.parametrize("lost", ["kv", "kv and media"])
def test_what_is_lost_of_the_earlier_backup_is_made_again(daemon: Daemon, lost: str) -> None:
    a, b = model_a(), model_b()
    with daemon.keeper() as keeper:
        session = chat(a, ASK)
        session.reply(**options(a))
        first = keeper.save("lossy", session).wait(60)
        under_b = keeper.restore("lossy", target_of(b)).session
        under_b.say(says("user", [{"type": "image"}, "More."]), media=[Media(png(1, 200))])
        keeper.save("lossy", under_b).wait(60)
        manifest = keeper.manifest(first.id)[1]
        assert manifest.kv_cache is not None
        digests = [manifest.kv_cache.blocks[0].digest]
        if "media" in lost:
            digests += [ref.digest for ref in layer_blobs(keeper.manifest("lossy")[1].layers["media"])]
        for digest in digests:
            (daemon.home / "store" / "blobs" / digest[:2] / digest).unlink()
        woken = keeper.restore("lossy", target_of(a))
    assert (woken.mode, woken.plan.base_id, woken.plan.tokens_reused) == ("embeddings", first.id, 0)
    again = woken.session
    assert torch.equal(again.token_ids[:, : session.token_ids.shape[-1]], session.token_ids)
    assert ("[image]More." in shown(again)) == ("media" in lost)
    assert again.image_grid_thw.shape[0] == (1 if "media" in lost else 2)  # type: ignore[union-attr]
    again.generate(**options(a, 2))


def test_the_nearest_backup_of_the_model_is_gone_on_from(keeper: Keeper) -> None:
    a, b = model_a(), model_b()
    session, seen = chat(a, ASK), []
    for loaded in (a, b, a, b, a):
        session.reply(**options(loaded, 3))
        session.say(says("user", "Next."))
        session.generate(**options(loaded, 2))
        seen.append(keeper.save("often", session).wait(60))
        woken = keeper.restore("often", target_of(b if loaded is a else a))
        if len(seen) > 1:
            assert woken.plan.base_id == seen[-2].id
        session = woken.session
        session.finish() if session.mark and session.mark.answer is not None else None
        session.say(says("user", "Other."))
    with pytest.raises(RestoreRefused):
        keeper.restore(seen[-2].id, target_of(a), require="full")
    assert keeper.restore(seen[-2].id, target_of(a), at_most="media").plan.base_id is None


def narrow(loaded: Loaded, window: int) -> Loaded:
    """The same weights with another window."""
    made = small_model(max_position_embeddings=window)
    return Loaded(made.model, loaded.tokenizer, loaded.image_processor)


@pytest.fixture(scope="module")
def long_talk() -> list[Any]:
    turns = [m for i in range(5) for m in (says("user", f"Question {i}? " * 4), says("assistant", f"Answer {i}."))]
    return [says("system", "Be brief."), ASK, says("assistant", "A sun."), *turns, says("user", "Last question?")]


@pytest.mark.parametrize("tokens_reused", [True, False], ids=["own ids", "other model"])
def test_a_context_that_is_too_long(keeper: Keeper, long_talk: list[Any], tokens_reused: bool) -> None:
    name = f"long-{tokens_reused}"
    session = chat(model_a() if tokens_reused else model_b(), *long_talk)
    keeper.save(name, session).wait(60)
    small = narrow(model_a(), 200)
    small.model.model.rope_deltas = torch.tensor([[77]])
    plan = keeper.plan(name, target_of(small))
    assert any("keep-system-and-newest" in note for note in plan.notes)
    with pytest.raises(ContextTooLong, match="window has 200") as caught:
        keeper.restore(name, target_of(small))
    assert "keep-newest" in caught.value.hint
    assert small.model.model.rope_deltas.tolist() == [[77]]
    kept = {}
    for overflow in ("keep-newest", "keep-system-and-newest"):
        woken = keeper.restore(name, target_of(small), overflow=overflow)
        kept[overflow] = cut = woken.session
        assert cut.token_ids.shape[-1] <= 200 - 200 // 8
        assert cut.conversation == long_talk
        assert cut.left_out is not None
        assert cut.image_grid_thw is None  # the picture is of a turn that is left out
        assert any("out of the context" in note for note in woken.plan.notes)
        assert woken.plan.tokens_prefill == cut.token_ids.shape[-1]
        assert keeper.plan(name, target_of(small), overflow=overflow).tokens_prefill == woken.plan.tokens_prefill
    assert shown(kept["keep-newest"]).startswith("<|im_start|>user\nQuestion")
    assert shown(kept["keep-system-and-newest"]).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ"
    )
    assert kept["keep-system-and-newest"].left_out[0] == 1  # type: ignore[index]
    cut.reply(**options(model_a(), 3))
    keeper.save(name, cut).wait(60)
    again = keeper.restore(name, target_of(small), require="full").session
    assert (again.left_out, again.conversation) == (cut.left_out, cut.conversation)
    wide = keeper.restore(name, target_of(model_b())).session
    assert (wide.left_out, wide.image_grid_thw is not None) == (None, True)


def test_the_new_turns_do_not_fit_either(keeper: Keeper) -> None:
    small, b = narrow(model_a(), 128), model_b()
    session = chat(small, ASK)
    session.reply(**options(model_a(), 3))
    under_b = switch(keeper, "outgrown", session, b)
    under_b.say(says("user", "Now a long question. " * 3))
    keeper.save("outgrown", under_b).wait(60)
    with pytest.raises(ContextTooLong):
        keeper.restore("outgrown", target_of(small))
    woken = keeper.restore("outgrown", target_of(small), overflow="keep-newest")
    assert (woken.plan.base_id, woken.plan.tokens_reused, woken.mode) == (None, 0, "text-only")
    assert woken.session.left_out == (0, 2)
    woken.session.generate(**options(model_a(), 2))


def test_a_new_picture_where_the_embeddings_of_the_old_one_are_gone(keeper: Keeper) -> None:
    session = chat(model_a(), ASK)
    session.reply(**options(model_a()))
    session.vision = {}
    under_b = switch(keeper, "no-embeddings", session, model_b())
    under_b.say(says("user", "More."))
    first = keeper.save("no-embeddings", under_b).wait(60)
    assert keeper.restore(first.id, target_of(model_a())).plan.base_id is not None  # the cache has them
    under_b.say(says("user", [{"type": "image"}]), media=[Media(picture(60))])
    keeper.save("no-embeddings", under_b).wait(60)
    woken = keeper.restore("no-embeddings", target_of(model_a()))
    assert (woken.mode, woken.plan.base_id) == ("media", None)
    assert any("earlier images are gone" in note for note in woken.plan.notes)
    woken.session.generate(**options(model_a(), 2))


def test_a_model_that_reads_text_only(keeper: Keeper) -> None:
    a = model_a()
    config = Qwen3Config(
        vocab_size=272, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(1)
    model = Qwen3ForCausalLM(config).eval()
    session = chat(a, ASK)
    session.reply(**options(a))
    keeper.save("blind", session).wait(60)
    target = TransformersTarget(model, tokenizer=a.tokenizer)
    woken = keeper.restore("blind", target)
    assert woken.mode == "text-only"
    assert "1 image stand in the context as the word [image]: the model reads text only" in woken.plan.notes
    assert "user\n[image]What is on" in shown(woken.session)
    assert keeper.plan("blind", target).notes == woken.plan.notes
    woken.session.say(says("user", "And?"))
    woken.session.generate(**options(a, 3))
    back = switch(keeper, "blind", woken.session, a)
    assert torch.equal(back.token_ids[:, : session.token_ids.shape[-1]], session.token_ids)
    assert len(back.media) == 1


@pytest.mark.parametrize("fault", ["lost", "no-image", "video"])
def test_what_cannot_be_encoded_again_is_said(keeper: Keeper, fault: str) -> None:
    session = chat(model_a(), ASK, says("assistant", "ok"), says("user", [{"type": "image"}, "and this?"]),
                   media=[Media(picture(60)), Media(picture(90))])  # fmt: skip
    if fault == "lost":
        del session.media[1]
    elif fault == "no-image":
        session.media[1] = Media(session.media[1].data[:300])
    else:
        session.conversation[0]["content"].append({"type": "video"})
    woken = keeper.restore(keeper.save(f"fault-{fault}", session).wait(60).id, target_of(model_b()))
    told = {"lost": "image 2 stands in", "no-image": "cannot be decoded", "video": "a part of kind video"}[fault]
    assert any(told in note for note in woken.session.notes)
    assert ("[image]" in shown(woken.session)) == (fault != "video")
    woken.session.generate(**options(model_b(), 2))
    assert woken.mode == "media"


def test_conversations_of_other_shapes(keeper: Keeper) -> None:
    a, b = model_a(), model_b()
    tree = {"head": 2, "nodes": {1: {**ASK, "parent": None}, 2: {**says("assistant", "Yes."), "parent": 1}}}
    for name, conversation in (("tree", tree), ("odd", {"nodes": "?"})):
        session = chat(a, ASK)
        session.generate(**options(a, 2))
        session.conversation = conversation  # type: ignore[assignment]
        woken = keeper.restore(keeper.save(name, session).wait(60).id, target_of(b))
        assert woken.session.conversation == conversation
        if name == "tree":
            assert shown(woken.session).endswith("#What is on the picture?[/turn][model]Yes.[/turn]")
        else:
            assert (woken.mode, woken.session.token_ids.shape[-1]) == ("text-only", 0)
            assert any("neither a list" in note for note in woken.plan.notes)
