"""Turns on a live session: only new ids are made, in whatever form the model's template has."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import torch
from support.switching import ASK, TOOLS, ZOOM, chat, fed, model_a, model_b, options, shown, write
from torpor.adapters.chat_form import ChatForm
from torpor.adapters.demo_model import Loaded, byte_tokenizer, picture
from torpor.adapters.transformers import Media, TransformersSession, start_chat
from torpor.state.answer import Begun
from torpor.state.errors import BadInput, UnsuitableTemplate, UntrackedSession
from transformers import Qwen3Config, Qwen3ForCausalLM

CALL = {"role": "assistant", "content": "Wait.", "tool_calls": [ZOOM]}
FOUND = {"role": "tool", "content": "a circle"}
THOUGHT = {"role": "assistant", "content": "A sun.", "reasoning_content": "Round."}
AND = {"role": "user", "content": "And?"}
SECOND = {"role": "user", "content": [{"type": "text", "text": "Compare "}, {"type": "image"}]}


@pytest.fixture(params=["a", "b"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return model_a() if request.param == "a" else model_b()


def test_turn_by_turn_is_the_same_as_all_at_once(loaded: Loaded) -> None:
    media = [Media(picture(120)), Media(picture(60))]
    whole = chat(loaded, ASK, CALL, FOUND, SECOND, media=media, tools=TOOLS)
    steps = chat(loaded, ASK, media=media[:1], tools=TOOLS)
    for message in (CALL, FOUND):
        steps.say(message)
    steps.say(SECOND, media=media[1:])
    assert steps.token_ids.tolist() == whole.token_ids.tolist()
    assert (steps.mark, steps.conversation) == (whole.mark, whole.conversation)
    assert steps.mm_token_type_ids.tolist() == whole.mm_token_type_ids.tolist()  # type: ignore[union-attr]
    assert steps.image_grid_thw.tolist() == whole.image_grid_thw.tolist()  # type: ignore[union-attr]
    for name in ("pooler_output", "deepstack_features"):
        mine, theirs = (getattr(s.vision["image"], name) for s in (steps, whole))
        assert len(mine) == len(theirs) > 1


def test_a_new_picture_is_seen_and_the_old_one_is_not_fed_again(loaded: Loaded) -> None:
    session = chat(loaded, ASK)
    session.reply(**options(loaded))
    held = session.cache.get_seq_length()
    session.say(SECOND, media=[Media(picture(60))])
    fresh = TransformersSession(
        loaded.model, session.token_ids, loaded.tokenizer, loaded.image_processor,
        mm_token_type_ids=session.mm_token_type_ids, image_grid_thw=session.image_grid_thw, vision=session.vision,
    )  # fmt: skip
    with fed(loaded.model) as counts:
        later = session.generate(output_logits=True, max_new_tokens=1, do_sample=False, pad_token_id=0)
    assert counts == [session.token_ids.shape[-1] - 1 - held]
    whole = fresh.generate(output_logits=True, max_new_tokens=1, do_sample=False, pad_token_id=0)
    assert torch.allclose(later.logits[0], whole.logits[0], rtol=0.1, atol=0.3)
    for tensor in session.vision["image"].pooler_output[1:]:
        tensor.zero_()
    blind = TransformersSession(
        loaded.model, fresh.token_ids[:, :-1], loaded.tokenizer, loaded.image_processor,
        mm_token_type_ids=fresh.mm_token_type_ids[:, :-1], image_grid_thw=session.image_grid_thw, vision=session.vision,  # type: ignore[index]
    )  # fmt: skip
    unseen = blind.generate(output_logits=True, max_new_tokens=1, do_sample=False, pad_token_id=0)
    assert not torch.allclose(later.logits[0], unseen.logits[0], rtol=0.1, atol=0.3)


def test_old_thinking_stays_in_the_ids(loaded: Loaded) -> None:
    session = chat(loaded, ASK)
    write(session, "<think>\nRound.\n</think>\n\nA sun.", end=True)
    before = session.token_ids.clone()
    assert session.finish() == THOUGHT
    session.say(AND)
    assert torch.equal(session.token_ids[:, : before.shape[-1]], before)
    assert "Round." in shown(session)
    assert "Round." not in shown(chat(loaded, *session.conversation))  # which the template would drop


def test_calls_of_tools_are_parsed_and_answered() -> None:
    session = chat(model_a(), ASK, tools=TOOLS)
    write(session, 'Wait.\n<tool_call>{"arguments": {"x": 1},"name":"zoom"}</tool_call>', end=True)
    before = session.token_ids.clone()
    session.say(FOUND)  # without a finish before
    assert session.conversation[1]["tool_calls"][0]["function"] == {"name": "zoom", "arguments": {"x": 1}}
    assert torch.equal(session.token_ids[:, : before.shape[-1]], before)
    assert shown(session).endswith(
        "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\na circle\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_an_answer_that_was_opened_is_taken_back_while_nobody_fed_it(loaded: Loaded) -> None:
    session = chat(loaded, ASK)
    session.say(AND)
    assert session.conversation == [ASK, AND]
    assert session.token_ids.tolist() == chat(loaded, ASK, AND).token_ids.tolist()
    session.say(AND, answer=False)
    closed = session.token_ids.shape[-1]
    assert session.mark.answer is None  # type: ignore[union-attr]
    message = session.reply(**options(loaded, 3))
    assert session.conversation[-1] == message
    assert session.token_ids.shape[-1] > closed + 3


def test_an_answer_ends_at_the_end_of_turn_and_waits_for_the_next_question(loaded: Loaded) -> None:
    session = chat(loaded, ASK)
    end = loaded.tokenizer.eos_token_id
    message = session.reply(
        max_new_tokens=50, min_new_tokens=2, do_sample=False, sequence_bias={(end,): 1e4}, pad_token_id=0
    )
    assert session.token_ids[0, -1] == end
    assert session.token_ids.shape[-1] < 50 + session.mark.position  # type: ignore[union-attr]
    assert session.conversation == [ASK, message]
    ids = session.token_ids.clone()
    with pytest.raises(BadInput, match="an answer already"):
        session.reply()
    assert torch.equal(session.token_ids, ids)


def test_an_answer_that_was_cut_off_is_closed_first(loaded: Loaded) -> None:
    session = chat(loaded, ASK)
    write(session, "A su")
    session.say(AND)
    assert session.conversation == [ASK, {"role": "assistant", "content": "A su"}, AND]
    assert session.token_ids.tolist() == chat(loaded, *session.conversation).token_ids.tolist()


@pytest.mark.parametrize("text", ["<|image_pad|>", "[patch]", "x<|image_pad|><|image_pad|>y"])
def test_a_text_that_spells_a_placeholder_is_no_picture(loaded: Loaded, text: str) -> None:
    parts = [{"type": "text", "text": text}, {"type": "image"}]
    session = chat(loaded, {"role": "user", "content": parts})
    plain = chat(loaded, {"role": "user", "content": [{"type": "image"}]})
    image = loaded.model.config.image_token_id
    assert (session.token_ids == image).sum() == (plain.token_ids == image).sum()
    session.say({"role": "user", "content": text})
    assert (session.token_ids == image).sum() == (plain.token_ids == image).sum()
    session.generate(**options(loaded, 2))


def test_a_picture_inside_a_message(loaded: Loaded) -> None:
    url = "data:image/png;base64," + base64.b64encode(picture(60)).decode()
    inside = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    by_url = start_chat(loaded.model, loaded.tokenizer, loaded.image_processor, [inside])
    beside = chat(loaded, {"role": "user", "content": [{"type": "image"}]}, media=[Media(picture(60))])
    assert by_url.token_ids.tolist() == beside.token_ids.tolist()
    assert torch.equal(by_url.vision["image"].pooler_output[0], beside.vision["image"].pooler_output[0])
    assert by_url.media == [Media(picture(60))]


@pytest.mark.parametrize(
    ("message", "media", "error"),
    [
        (SECOND, [], "its source is not there"),
        (SECOND, [Media(b"no image")], "cannot be decoded"),
        (SECOND, [Media(picture(60)[:200])], "cannot be decoded"),
        ({"role": "user"}, [], "not a message"),
        ("hello", [], "not a message"),
    ],
)
def test_what_cannot_be_said_changes_nothing(loaded: Loaded, message: Any, media: list[Media], error: str) -> None:
    session = chat(loaded, ASK)
    before = session.token_ids, session.mark, list(session.conversation), list(session.media)
    with pytest.raises(BadInput, match=error):
        session.say(message, media=media)
    assert (session.token_ids, session.mark, session.conversation, session.media) == before


def test_ids_that_went_on_by_hand() -> None:
    session = chat(model_a(), ASK)
    write(session, "A sun.<|im_end|>\n<|im_start|>user\nBy hand<|im_end|>\n")
    with pytest.raises(UntrackedSession):
        session.say(AND)
    assert "covered" not in session.capture().layers["text_context"]
    bare = TransformersSession(model_a().model, session.token_ids, model_a().tokenizer)
    with pytest.raises(UntrackedSession):
        bare.say(AND)
    with pytest.raises(UntrackedSession):
        bare.finish()


def test_a_character_that_is_not_whole_yet_is_no_part_of_the_answer() -> None:
    session = chat(model_a(), ASK)
    ids = model_a().tokenizer("sun ☀", add_special_tokens=False)["input_ids"]
    session.extend(torch.tensor([ids[:-1]]))
    assert session.capture().layers["text_context"]["pending"] == {"text": "sun ", "ended": False}


# Templates of other shapes, each as short as it can be.
STRICT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] + '' }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
PARTS = "{% for m in messages %}<{{ m['role'] }}>{% for p in m['content'] %}{{ p['text'] }}{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
TWO_ROLES = (
    "{% for m in messages %}{% if m['role'] in ['user', 'assistant'] %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
THINKER = STRICT.replace("<assistant>{% endif %}", "<assistant><think>\n{% endif %}")
SILENT = STRICT.replace("<assistant>{% endif %}", "<assistant><think>\n\n</think>\n\n{% endif %}")


@pytest.fixture(scope="module")
def reader() -> Any:
    config = Qwen3Config(
        vocab_size=272, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("template", "context"),
    [
        (STRICT, "<user>Q</s><assistant>Wait.\nCALL</s><tool>a circle</s><assistant>"),
        (PARTS, "<user>Q</s><assistant>Wait.\nCALL</s><tool>a circle</s><assistant>"),
        (
            TWO_ROLES,
            "<user>Q</s><assistant>Wait.\nCALL</s><user><tool_response>\na circle\n</tool_response></s><assistant>",
        ),
        (THINKER, "<user>Q</s><assistant>Wait.\nCALL</s><tool>a circle</s><assistant><think>\n"),
        (STRICT + " ", "<user>Q</s><assistant>Wait.\nCALL</s><tool>a circle</s><assistant> "),
    ],
    ids=["strict", "parts", "two roles", "thinker", "space at the end"],
)
def test_templates_of_other_shapes(reader: Any, template: str, context: str) -> None:
    tokenizer = byte_tokenizer(template=template)
    question = {"role": "user", "content": [{"type": "text", "text": "Q"}]}
    at_once = start_chat(reader, tokenizer, None, [question, CALL, FOUND])
    call = '<tool_call>\n{"name": "zoom", "arguments": {"x": 3, "deep": [1.5, "ü"]}}\n</tool_call>'
    assert tokenizer.decode(at_once.token_ids[0]) == context.replace("CALL", call)
    steps = start_chat(reader, tokenizer, None, [question])
    steps.say(CALL)
    steps.say(FOUND)
    assert tokenizer.decode(steps.token_ids[0]) == context.replace("CALL", call)


@pytest.mark.parametrize(
    ("template", "begun", "opened"),
    [
        (STRICT, "", "<assistant>"),
        (STRICT, "<think>\n", "<assistant>"),
        (STRICT, "<think>\nhm", "<assistant><think>\nhm"),
        (THINKER, "", "<assistant><think>\n"),
        (THINKER, "<think>\nhm", "<assistant><think>\nhm"),
        (THINKER, "Yes", "<assistant>Yes"),
        (SILENT, "", "<assistant><think>\n\n</think>\n\n"),
        (SILENT, "Yes", "<assistant><think>\n\n</think>\n\nYes"),
        (SILENT, "<think>\nhm", "<assistant><think>\nhm"),
    ],
)
def test_how_an_answer_is_opened(reader: Any, template: str, begun: str, opened: str) -> None:
    form = ChatForm(reader, byte_tokenizer(template=template))
    assert "".join(form.opening("user", Begun(begun))) == opened


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('roles must alternate') }}", "{{ messages[9]['x']['y'] }}", "const"]
)
def test_a_template_that_cannot(reader: Any, template: str) -> None:
    tokenizer = byte_tokenizer(template=template)
    session = start_chat(reader, tokenizer)
    if template != "const":
        with pytest.raises(UnsuitableTemplate, match="the chat template fails"):
            session.say(AND)
    else:
        session.say(AND)
        with pytest.raises(UnsuitableTemplate, match="0 times"):
            session.say(AND)
    tokenizer.chat_template = None
    with pytest.raises(UnsuitableTemplate, match="no chat template"):
        start_chat(reader, tokenizer, None, [AND])
    assert session.conversation in ([], [AND])
