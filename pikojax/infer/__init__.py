"""Inference: prefill and decode compiled over a pooled cache, many requests at once.

    sampling.py     logits → token: temperature, truncation, penalties, a key per row
    decode.py       prefill, and the loop: draft, verify, keep
    drafters.py     what guesses
    engine.py       requests come and go; the only mutable state
    generate.py     prompt → text, in one call
"""
