"""What `inspect.look` has seen as one page: no requests, no text that acts, in light and dark.

    numbers and labels → JSON in ASCII, every "<" written \\u003c → one <script type="application/json"> → drawn with textContent and canvas

The page forbids itself everything but its own style and its own script, whose hash it names: what a prompt or a vocabulary holds is never
run, even if it broke out of its place. Attention is a byte a weight, in base64.

Leaves out: printing, small screens below a hand's breadth.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence

import numpy as np

from pikojax.infer.inspect import Looked
from pikojax.text.view import shown, spelled

LABEL_CHARS = 24


def labels(tokenizer, ids: Sequence[int]) -> list[str]:
    """A short text for each id, in which nothing acts: what the token adds to a text, its name where that is nothing."""
    from pikojax.config import UserError
    from pikojax.text.token_bytes import token_bytes

    if tokenizer is None:
        return [f"#{id}" for id in ids]
    try:
        adds = token_bytes(tokenizer)
    except UserError:  # tokens that depend on their neighbours have names alone
        adds = []

    def one(id: int) -> str:
        data = adds[id] if id < len(adds) else b""
        text = shown(data) if data else spelled(tokenizer.id_to_token(id) or f"#{id}")
        text = text if text.strip(" ") else "␣" * len(text)  # a space alone would be seen by no one
        return text if len(text) <= LABEL_CHARS else text[: LABEL_CHARS - 1] + "…"

    return [one(int(id)) for id in ids]


def page(seen: Looked, ids: Sequence[int], tokenizer, title: str, facts: dict) -> str:
    """`facts`: name → value, for the head of the page."""
    known = np.unique(np.concatenate([np.asarray(ids), *([] if seen.words_LTK is None else [seen.words_LTK.reshape(-1)])]))
    place = {int(id): i for i, id in enumerate(known)}
    data = {
        "labels": labels(tokenizer, known),
        "tokens": [place[int(id)] for id in ids],
        "causal": seen.causal,
        "norms": np.round(seen.norms_LT.astype(np.float64), 3).tolist(),
        "likeness": _packed(np.maximum(seen.likeness_TT, 0)),
        "heads": None if seen.attention_LHTT is None else list(seen.attention_LHTT.shape[:2]),
        "attention": None if seen.attention_LHTT is None else _packed(seen.attention_LHTT),
        "words": None if seen.words_LTK is None else [[[place[int(id)] for id in row] for row in rows] for rows in seen.words_LTK],
        "probs": None if seen.probs_LTK is None else np.round(seen.probs_LTK.astype(np.float64), 4).tolist(),
        "experts": None if seen.experts_LTK is None else seen.experts_LTK.tolist(),
    }
    safe = lambda value: html.escape(spelled(str(value)))
    parts = {
        "HASH": base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
        "STYLE": _STYLE,
        "SCRIPT": _SCRIPT,
        "TITLE": safe(title),
        "FACTS": "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>" for name, value in facts.items()),
        "DATA": _inert(data),
    }
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], _HEAD + _BODY)  # in one go: what is put in may hold a mark itself


def _inert(data) -> str:
    """JSON that no HTML parser sees anything in."""
    return json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _packed(weights: np.ndarray) -> str:
    return base64.b64encode(np.rint(np.clip(weights, 0, 1) * 255).astype(np.uint8).tobytes()).decode()


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-@HASH@'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>@TITLE@</title>
<style>@STYLE@</style></head>
"""

_STYLE = """
:root { --paper: #fcfcfa; --ink: #1d2126; --soft: #667080; --line: #dde1e6; --card: #fff; --pick: #b4500f; --on: #fff;
  --hue: 20, 90, 170; --warm: 205, 95, 20 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e4e7eb; --soft: #97a1ad; --line: #2c333b; --card: #1b1f25; --pick: #ffb169; --on: #0d1013;
    --hue: 110, 185, 255; --warm: 255, 165, 85 }
}
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1.5rem 1.2rem 4rem;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 1.4rem; margin: 0 0 .4rem; overflow-wrap: anywhere }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .2rem }
p { margin: .2rem 0 .7rem; color: var(--soft); max-width: 62rem }
dl { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: 0 }
dl div { display: flex; gap: .4rem } dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
.mono, table, .text { font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem; overflow: auto }
.text { line-height: 2.1 }
.text button { font: inherit; color: inherit; background: none; border: 1px solid var(--line); border-radius: 4px; padding: .05rem .3rem;
  margin: 0 2px 2px 0; cursor: pointer; white-space: pre; unicode-bidi: isolate }
button:focus-visible { outline: 2px solid var(--pick) }
.text button.on { border-color: var(--pick); box-shadow: 0 0 0 1px var(--pick) }
.top { position: sticky; top: 0; z-index: 3; max-height: 9.5rem }
.bars { display: grid; grid-template-columns: max-content max-content 1fr; gap: .1rem .7rem; align-items: center }
.bars span { white-space: pre; unicode-bidi: isolate } .bars i { height: .8em; border-radius: 2px; background: rgba(var(--hue), .75) }
table { border-collapse: separate; border-spacing: 1px }
th { font-weight: 400; color: var(--soft); text-align: right; padding: 0 .5rem; white-space: pre }
thead th { text-align: left; padding: 0 .3rem; max-width: 6.5rem; overflow: hidden; text-overflow: ellipsis; unicode-bidi: isolate }
tbody th { position: sticky; left: 0; background: var(--card) }
td { max-width: 6.5rem; min-width: 2.2rem; padding: .05rem .3rem; overflow: hidden; text-overflow: ellipsis; white-space: pre;
  unicode-bidi: isolate; border-radius: 2px }
th.on { color: var(--pick); font-weight: 700 } td.on { box-shadow: inset 0 0 0 1px var(--pick) }
.heads { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.2rem, 1fr)); gap: .6rem }
.heads button { font: inherit; font-size: 12px; color: var(--soft); background: none; border: 1px solid var(--line); border-radius: 6px;
  padding: .3rem; cursor: pointer }
.heads button.on { border-color: var(--pick); color: var(--pick) }
canvas { width: 100%; aspect-ratio: 1; image-rendering: pixelated; display: block; border-radius: 3px }
.two { display: grid; grid-template-columns: minmax(16rem, 30rem) 1fr; gap: 1.2rem; margin-top: 1rem }
@media (max-width: 50rem) { .two { grid-template-columns: 1fr } }
label { display: inline-flex; gap: .6rem; align-items: center; margin: 0 1rem .7rem 0 } input { accent-color: var(--pick) }
"""

_BODY = """<body>
<h1>@TITLE@</h1>
<dl>@FACTS@</dl>
<noscript><p>This page draws itself with a script of its own; allow scripts to see it. It makes no requests.</p></noscript>
<h2>The text</h2>
<p>Click a token, or move with ← and →: everything below is seen from it. Its colour here: how much the chosen head looks at it.</p>
<div class="card text top" id="text"></div>
<section id="next-part"><h2 id="next-title"></h2><div class="card mono bars" id="next"></div></section>
<section id="lens-part"><h2>What each layer would say</h2>
<p>The likeliest next token if the model ended after that layer (the logit lens); the stronger the colour, the surer.
The pointer shows more.</p>
<div class="card"><table id="lens"></table></div></section>
<section id="heads-part"><h2>Where the heads look</h2>
<p id="heads-say"></p>
<label>layer <input type="range" id="layer" min="0" value="0"> <b class="mono" id="layer-say"></b></label>
<div class="card heads" id="heads"></div>
<div class="two"><div class="card"><canvas id="map"></canvas></div>
<div class="card"><b id="map-say"></b><div class="mono bars" id="looks"></div></div></div></section>
<section id="experts-part"><h2>Which experts</h2><p>Of each layer (rows), for each token.</p>
<div class="card"><table id="experts"></table></div></section>
<h2>How long the vectors are</h2>
<p>The norm of each token's vector after each layer; coloured within its layer.
A first token that stands out is usual: heads rest on it.</p>
<div class="card"><table id="norms"></table></div>
<section id="like-part"><h2>How alike the tokens end</h2><p>The cosine of the final vectors of each two tokens.</p>
<div class="two"><div class="card"><canvas id="like"></canvas></div>
<div class="card"><b id="like-say"></b><div class="mono bars" id="alikes"></div></div></div></section>
<script type="application/json" id="data">@DATA@</script>
<script>@SCRIPT@</script>
</body></html>
"""

_SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id), T = data.tokens.length, name = t => data.labels[data.tokens[t]];
const bytes = text => text === null ? null : Uint8Array.from(atob(text), c => c.charCodeAt(0));
const attention = bytes(data.attention), likeness = bytes(data.likeness), last = data.norms.length - 1;
const percent = p => p >= 0.0995 ? Math.round(100 * p) + "%" : (100 * p).toFixed(1) + "%";
let token = T - 1, layer = 0, head = 0;
const weight = (l, h, t, s) => attention[((l * data.heads[1] + h) * T + t) * T + s] / 255;
const rowName = l => l === 0 ? "input" : String(l);

function make(tag, text, parent, kind) {
  const node = document.createElement(tag);
  if (text !== null) node.textContent = text;
  if (kind) node.className = kind;
  if (parent) parent.append(node);
  return node;
}
function colour(which, alpha) {
  return "rgba(" + getComputedStyle(document.documentElement).getPropertyValue(which) + "," + alpha.toFixed(3) + ")";
}
function shade(node, alpha, which = "--hue") {
  node.style.background = alpha > 0.004 ? colour(which, 0.85 * alpha) : "";
  node.style.color = alpha > (which === "--hue" ? 0.6 : 0.85) ? "var(--on)" : "";
}
function bars(node, rows) {
  node.replaceChildren();
  const most = Math.max(...rows.map(row => row[1]), 1e-9);
  for (const [label, p] of rows) {
    make("span", label, node);
    make("span", percent(p), node);
    make("i", null, node).style.width = 100 * p / most + "%";
  }
}
function draw(canvas, value) {
  canvas.width = canvas.height = T;
  const pen = canvas.getContext("2d"), picture = pen.createImageData(T, T);
  const [r, g, b] = getComputedStyle(document.documentElement).getPropertyValue("--hue").split(",").map(Number);
  for (let t = 0; t < T; t++) for (let s = 0; s < T; s++) picture.data.set([r, g, b, 12 + 243 * Math.sqrt(value(t, s))], 4 * (t * T + s));
  pen.putImageData(picture, 0, 0);
}
function pointed(canvas, say, value, words) {
  const cell = (offset, size) => Math.min(T - 1, Math.floor(T * offset / size));
  canvas.addEventListener("pointermove", event => {
    const s = cell(event.offsetX, canvas.clientWidth), t = cell(event.offsetY, canvas.clientHeight);
    if (t >= 0 && s >= 0) say.textContent = words(t, s) + ": " + percent(value(t, s));
  });
  canvas.addEventListener("pointerleave", show);
  canvas.addEventListener("click", event => choose(Math.max(0, cell(event.offsetY, canvas.clientHeight))));
}
function table(node, rows, cell, first = 0) {
  const top = make("tr", null, make("thead", null, node)), body = make("tbody", null, node);
  make("th", "", top);
  for (let t = 0; t < T; t++) make("th", name(t), top).title = "token " + t + ": " + name(t);
  for (let l = rows - 1; l >= 0; l--) {
    const row = make("tr", null, body);
    make("th", rowName(l + first), row);
    for (let t = 0; t < T; t++) {
      const td = make("td", null, row);
      td.addEventListener("click", () => choose(t));
      cell(td, l, t);
    }
  }
}
function mark(node) {
  for (const row of node.rows) for (let t = 0; t < T; t++) row.cells[t + 1].classList.toggle("on", t === token);
}
function build() {
  for (let t = 0; t < T; t++) make("button", name(t), at("text")).addEventListener("click", () => choose(t));
  if (data.words) table(at("lens"), data.words.length, (td, l, t) => {
    const p = data.probs[l][t], words = data.words[l][t].map(i => data.labels[i]);
    td.textContent = words[0];
    td.title = "after " + rowName(l) + ", behind " + name(t) + ":\\n" + words.map((word, k) => percent(p[k]) + "  " + word).join("\\n");
    shade(td, p[0]);
  });
  table(at("norms"), data.norms.length, (td, l, t) => {
    td.textContent = data.norms[l][t].toPrecision(3);
    shade(td, data.norms[l][t] / Math.max(...data.norms[l], 1e-9), "--warm");
  });
  if (data.experts) table(at("experts"), data.experts.length, (td, l, t) => { td.textContent = data.experts[l][t].join(" "); }, 1);
  at("next-part").hidden = at("lens-part").hidden = !data.words;
  at("experts-part").hidden = !data.experts;
  at("heads-part").hidden = !attention;
  at("like-part").hidden = Boolean(data.words);
  if (attention) {
    at("heads-say").textContent = "A row is a token that looks, a column one that it looks at"
      + (data.causal ? ", itself or one before it. " : ". ") + "Click a head to see it large.";
    layer = data.heads[0] - 1;
    at("layer").max = layer;
    at("layer").value = layer;
    at("layer").addEventListener("input", () => { layer = Number(at("layer").value); drawHeads(); show(); });
    for (let h = 0; h < data.heads[1]; h++) {
      const button = make("button", null, at("heads"));
      make("canvas", null, button);
      make("span", "head " + (h + 1), button);
      button.addEventListener("click", () => { head = h; show(); });
    }
    pointed(at("map"), at("map-say"), (t, s) => weight(layer, head, t, s), (t, s) => name(t) + " → " + name(s));
    drawHeads();
  }
  if (!data.words) {
    draw(at("like"), (t, s) => likeness[t * T + s] / 255);
    pointed(at("like"), at("like-say"), (t, s) => likeness[t * T + s] / 255, (t, s) => name(t) + " and " + name(s));
  }
  addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && event.target.tagName !== "INPUT") choose(Math.max(0, Math.min(T - 1, token + step)));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => location.reload());
  show();
}
function drawHeads() {
  [...at("heads").children].forEach((button, h) => draw(button.firstChild, (t, s) => weight(layer, h, t, s)));
}
function choose(t) { token = t; show(); }
function most(value) {
  const rows = [...Array(T).keys()].map(s => [s + "  " + name(s), value(s)]);
  return rows.filter(row => row[1] > 0).sort((a, b) => b[1] - a[1]).slice(0, 12);
}
function show() {
  [...at("text").children].forEach((button, t) => {
    button.classList.toggle("on", t === token);
    shade(button, attention ? weight(layer, head, token, t) : 0);
  });
  mark(at("norms"));
  if (data.experts) mark(at("experts"));
  if (data.words) {
    mark(at("lens"));
    at("next-title").textContent = "Behind “" + name(token) + "”";
    bars(at("next"), data.words[last][token].map((i, k) => [data.labels[i], data.probs[last][token][k]]));
  } else {
    at("like-say").textContent = "Most like “" + name(token) + "”";
    bars(at("alikes"), most(s => s === token ? 0 : likeness[token * T + s] / 255));
  }
  if (attention) {
    at("layer-say").textContent = layer + 1 + " of " + data.heads[0];
    [...at("heads").children].forEach((button, h) => button.classList.toggle("on", h === head));
    draw(at("map"), (t, s) => weight(layer, head, t, s));
    at("map-say").textContent = "Layer " + (layer + 1) + ", head " + (head + 1) + ": where “" + name(token) + "” looks";
    bars(at("looks"), most(s => weight(layer, head, token, s)));
  }
}
build();
"""
