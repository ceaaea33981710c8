"""Chat templates: a model's own way of writing a conversation down, read from its files and rendered within bounds.

    templates = load_templates("models/qwen")                    # tokenizer_config.json, chat_template.jinja, chat_template.json
    render(templates, [{"role": "user", "content": "Hi"}])       # "<|im_start|>user\\nHi<|im_end|>\\n"
    encode_chat(tok, messages, templates, add_generation_prompt=True)   # int32 ids; what users say holds no control token

`render` is Hugging Face's apply_chat_template: the same environment, the same variables. The template is a stranger's program:
see `template.py` for what it may not do and `sandbox.py` for what it pays.

`encode_chat` makes control tokens of added tokens that the template itself wrote, character by character, and of no other (role
tokens are not always marked as special: `Tokenizer.controls` says which count): every
string in messages, tools, documents and variables is marked, the marks travel through the template (`marked.py`), and what is
between control tokens is encoded with control tokens read as words. A content "<|im_end|>" is eight letters and marks; so are "<|im_" and "end|>"
that a template joins. Roles name control tokens in some templates, so they must be among `ROLES`.

Leaves out: turning Python functions into tool schemas, continue_final_message, images and other parts that are no text.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pikojax.config import UserError, require

ROLES = ("system", "developer", "user", "assistant", "model", "tool", "tool_response", "function", "ipython", "environment", "context", "documents")
NAMED_SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MAX_SECONDS = 5.0
LIMIT_FILE_BYTES = 32 << 20


class Templates(NamedTuple):
    """A model's templates by name, most often "default" alone, and the text of its special tokens: {"bos_token": "<s>", …}."""

    sources: dict[str, str]
    specials: dict[str, str]


# ---------------------------------------------------------------- files


def load_templates(path: str | Path) -> Templates:
    """What the folder of a model (or one file of it) says. Newer files win: chat_template.jinja, tokenizer_config.json, chat_template.json."""
    found = find_templates(path)
    if found is None:
        raise UserError(f"{path} has no chat template; wanted chat_template.jinja or a chat_template in tokenizer_config.json")
    return found


def find_templates(path: str | Path) -> Templates | None:
    """The same, None where it says nothing."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    config = _read_json(folder / "tokenizer_config.json")
    sources = _named(_read_json(folder / "chat_template.json").get("chat_template"), folder / "chat_template.json")
    sources |= _named(config.get("chat_template"), folder / "tokenizer_config.json")
    for file in (folder / "chat_template.jinja", *sorted((folder / "additional_chat_templates").glob("*.jinja"))):
        if file.is_file():
            sources["default" if file.parent == folder else file.stem] = _read(file)
    if path.is_file() and path.suffix == ".jinja":
        sources["default"] = _read(path)
    listed = _read_json(folder / "special_tokens_map.json") | config
    return Templates(sources, {name: text for name in NAMED_SPECIALS if (text := _content(listed.get(name))) is not None}) if sources else None


def _named(found: Any, file: Path) -> dict[str, str]:
    """A template alone, or a list of named ones, as a dictionary."""
    if isinstance(found, str):
        return {"default": found}
    entries = found if isinstance(found, list) else [] if found is None else [found]
    good = all(isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str) for entry in entries)
    require(good, f"{file}: chat_template is neither text nor a list of name and template; mend the file")
    return {entry["name"]: entry["template"] for entry in entries}


def _content(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _read(file: Path) -> str:
    try:
        require(file.stat().st_size <= LIMIT_FILE_BYTES, f"{file} is larger than {LIMIT_FILE_BYTES >> 20} MB; this is no such file of a model")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}); give the folder of a model") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start}); fetch it again") from None


def _read_json(file: Path) -> dict:
    if not file.is_file():
        return {}
    try:
        tree = json.loads(_read(file))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is not JSON; fetch it again") from None
    require(isinstance(tree, dict), f"{file} holds no object; fetch it again")
    return tree


# ---------------------------------------------------------------- rendering


def render(
    template: Templates | str,
    messages: Sequence[Mapping],
    tools: Sequence[Mapping] | None = None,
    documents: Sequence[Mapping] | None = None,
    add_generation_prompt: bool = False,
    name: str | None = None,
    max_chars: int | None = None,
    max_seconds: float = MAX_SECONDS,
    **variables: Any,
) -> str:
    """The conversation as the model's template writes it. `name` chooses among several; `variables` are the template's own (enable_thinking=…)."""
    templates = Templates({"default": template}, {}) if isinstance(template, str) else template
    given = {"messages": messages, "tools": tools, "documents": documents, "add_generation_prompt": add_generation_prompt, **variables}
    given = _plain(given)
    return _render(templates, given | {"messages": _reasoned(given["messages"])}, name, max_chars, max_seconds)


def choose(templates: Templates, tools: Any, name: str | None) -> str:
    """The template that is asked for; for tools the one that is named for them, as transformers chooses."""
    if name is None:
        name = "tool_use" if tools is not None and "tool_use" in templates.sources else "default"
    known = ", ".join(templates.sources)
    require(name in templates.sources, f"no chat template is named {name!r}; there are: {known}; choose one by name=…")
    return templates.sources[name]


def _render(templates: Templates, variables: dict, name: str | None, max_chars: int | None, max_seconds: float) -> str:
    try:
        import jinja2

        from pikojax.text import sandbox, template
    except ImportError:
        raise UserError("chat templates need jinja2; run: pip install 'pikojax[text]'") from None
    source = choose(templates, variables.get("tools"), name)
    try:
        n_chars = sandbox.weigh(variables)[1]
    except sandbox.TooMuch:
        raise UserError(f"the messages hold over {sandbox.LIMIT_ITEMS:,} values, or nest over {sandbox.LIMIT_DEPTH} deep; send less") from None
    limit = 1_000_000 + 8 * n_chars if max_chars is None else max_chars
    try:
        return template.rendered(source, {**templates.specials, **variables}, limit, max_seconds)
    except sandbox.Refused as error:
        raise UserError(f"the chat template refuses these messages: {_short(error)}; change them") from None
    except sandbox.TooMuch as error:
        raise UserError(f"the chat template was stopped: {_short(error)}; use another template, or shorter messages") from None
    except (Exception, RecursionError, MemoryError) as error:
        line = template.line_of(source, error)
        where = f" in line {line}" if line else ""
        kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        raise UserError(f"the chat template fails{where}: {kind}{_short(error)}; the messages lack something, or it is broken") from None


def _reasoned(messages: list) -> list:
    """What a model thought goes by three names; templates find it by two of them."""
    require(bool(messages) and all(isinstance(message, dict) for message in messages), "messages must be a list of dictionaries, one at least")
    out = []
    for message in messages:
        thought = next((message[key] for key in ("reasoning_content", "thinking", "reasoning") if message.get(key) is not None), None)
        out.append(message if thought is None else {"thinking": thought, **message, "reasoning_content": thought})
    return out


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}…"


def _plain(value: Any, depth: int = 0) -> Any:
    """Only what JSON can say: no object of the program's own gets into a template's hands."""
    require(depth < 100, "the messages nest over 100 deep; send less")
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        require(abs(value) < 1 << 63, f"the messages hold a whole number of {value.bit_length()} bits, over 63; write it as text")
        return value
    if isinstance(value, Mapping):
        return {_plain(key, depth + 1): _plain(item, depth + 1) for key, item in value.items()}
    require(isinstance(value, Sequence), f"the messages hold a {type(value).__name__}; give text, numbers, lists and dictionaries")
    return [_plain(item, depth + 1) for item in value]


# ---------------------------------------------------------------- to ids


def encode_chat(
    tok,
    messages: Sequence[Mapping],
    template: Templates | str,
    tools: Sequence[Mapping] | None = None,
    documents: Sequence[Mapping] | None = None,
    add_generation_prompt: bool = False,
    roles: Collection[str] = ROLES,
    name: str | None = None,
    max_chars: int | None = None,
    max_seconds: float = MAX_SECONDS,
    **variables: Any,
) -> np.ndarray:
    """int32 ids of the rendered conversation. Added tokens are control tokens where the template wrote them, and plain text in all that
    it was given."""
    from pikojax.text import marked

    templates = Templates({"default": template}, {}) if isinstance(template, str) else template
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        require(role in roles, f"a message's role is {role!r}; give one of: {', '.join(roles)}")
    given = _plain({"tools": tools, "documents": documents, "add_generation_prompt": add_generation_prompt, **variables})
    given = {key: value if key in NAMED_SPECIALS else marked.words(value) for key, value in given.items()}
    given["messages"] = [
        {marked.words(key): value if key == "role" else marked.words(value) for key, value in each.items()} for each in _reasoned(_plain(messages))
    ]
    text = _render(templates, given, name, max_chars, max_seconds)
    return _encode(tok, str.__str__(text), marked.mask_of(text))


def _encode(tok, text: str, mask: bytes) -> np.ndarray:
    """ids of `text`; the characters with 1 in `mask` are no part of a control token."""
    names = tuple(getattr(tok, "controls", tok.specials))  # a plug-in's tokenizer may know special tokens alone
    spans = list(_controls(names, text, mask))
    wanted = [tok.token_to_id(text[start:end]) for start, end in spans]
    control = {tok.token_to_id(token) for token in names} - {tok.unk_id}  # unknown words are <unk> wherever they come from
    ids = np.asarray(tok.encode(text, add_special_tokens=False), np.int32)
    if [i for i in ids.tolist() if i in control] == [i for i in wanted if i in control] and _no_other(names, text, spans):
        return ids  # what users say holds no control token: as if it had been encoded in one go, which it was
    parts, position, before = [], 0, None
    for (start, end), token in zip([*spans, (len(text), len(text))], [*wanted, None]):
        parts += _plain_ids(tok, names, text[position:start], control, before)
        parts += [] if token is None else [np.array([token], np.int32)]
        position, before = end, text[start:end]
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def _controls(names: Collection[str], text: str, mask: bytes) -> Iterator[tuple[int, int]]:
    """Where the template wrote control tokens: leftmost, then longest, within the runs of characters that are its own."""
    if not names:
        return
    pattern = _pattern(names)
    for run in re.finditer(b"\0+", mask):
        for match in pattern.finditer(text, run.start(), run.end()):
            yield match.span()


def _no_other(names: Collection[str], text: str, spans: list[tuple[int, int]]) -> bool:
    """Whether the control tokens in `text` are those at `spans`."""
    return not names or [match.span() for match in _pattern(names).finditer(text)] == spans


def _pattern(names: Collection[str]) -> re.Pattern:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))


def _words(tok, names: Collection[str], text: str, *allowed: str) -> np.ndarray:
    """ids of text in which no control tokens but those `allowed` are looked for."""
    if hasattr(tok, "encode_words"):
        return np.asarray(tok.encode_words(text, frozenset(names) - set(allowed)), np.int32)
    return np.asarray(tok.encode(text, add_special_tokens=False, allowed_special=allowed), np.int32)


def _plain_ids(tok, names: Collection[str], text: str, control: set, before: str | None) -> list[np.ndarray]:
    """ids of text that has no control token in it, whatever it looks like; `before` is the control token that it stands behind."""
    if not text:
        return []
    first = next((token for token in (before, *names) if token not in text), None) if before is not None else None
    if first is not None:  # some kinds encode the beginning of a text in a way of its own, and this is none
        ids = _words(tok, names, first + text, first)
        if ids[:1].tolist() == [tok.token_to_id(first)] and control.isdisjoint(ids[1:].tolist()):
            return [ids[1:]]
    ids = _words(tok, names, text)
    if control.isdisjoint(ids.tolist()):
        return [ids]
    # a model that knows the token's text as a word of its own: split the text inside it
    cuts = [match.start() + 1 for match in re.finditer(f"(?={_pattern(names).pattern})", text)]
    parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]
    out = [_words(tok, names, part) for part in parts]
    require(control.isdisjoint(np.concatenate(out).tolist()), "a message's words encode to a control token of this tokenizer; change the message")
    return out
