"""Inference: sampling, prefill and decode compiled over a cache, and text as it comes.

    sampling.py   logits → the distribution that is drawn from, and a token: settings and a key per row
    decode.py     prefill and the decode loop, each one compiled program
    generate.py   prompt → text, streamed
"""
