"""What a file is that should have been a model or a tokenizer, told from its first bytes: the mistakes that people make with downloads, each by name.

    refuse_mistakes(path, head)  →  None, or UserError "model.gguf is a Git LFS pointer, not the model; run `git lfs pull`"

Leaves out: opening anything. Pickle is recognized, never loaded: loading one runs what it says.
"""

from pathlib import Path

from pikojax.config import UserError

HEAD_BYTES = 512
_MISTAKES = (  # how the file begins, what that means
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or download the file"),
    (b"PK\x03\x04", "is a zip archive, as PyTorch's pickle files are; loading pickles runs code, so fetch the .safetensors or .gguf"),
    (b"\x80\x02", "is a Python pickle; loading one runs code, so fetch the .safetensors or .gguf"),
    (b"\x80\x04", "is a Python pickle; loading one runs code, so fetch the .safetensors or .gguf"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"ggjt", "is in a format from before GGUF; fetch the model as .gguf"),
    (b"tjgg", "is in a format from before GGUF; fetch the model as .gguf"),
    (b"lmgg", "is in a format from before GGUF; fetch the model as .gguf"),
    (b"FUGG", "is a GGUF file of a machine with the other byte order; fetch the usual (little-endian) one"),
)


def refuse_mistakes(path: Path, head: bytes) -> None:
    if not head:
        raise UserError(f"{path} is empty; download it again")
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path} is a web page, not a model or a tokenizer; download the file itself, not the page that shows it")
    for begin, meaning in _MISTAKES:
        if head.startswith(begin):
            raise UserError(f"{path} {meaning}")
    if not head.strip(b"\0"):
        raise UserError(f"{path} begins with {len(head)} zero bytes, so its download did not finish; download it again")
