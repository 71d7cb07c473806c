"""Deltas of `fuota image delta` against the reference decoders of their format, on real firmware.

detools (Python) applies the patches; so does a small program in C with the decoder of heatshrink. PyPI's archive of
detools does not carry its C decoder: where `DETOOLS_C` names the folder src/c of a checkout, that applies them, too.
`FUOTA_BIN_DIR` names the folder of the binaries (default target/debug). With `--table` the table of docs/delta.md is
printed and nothing tested.
"""

import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import detools

import firmware_pairs

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(os.environ.get("FUOTA_BIN_DIR", ROOT / "target" / "debug"))
CACHE = BINARIES.parent / "firmware-pairs"
VECTORS = ROOT / "tests" / "vectors"
HEADER = 88
# Bytes of a fragment in EU868: largest payload (RP002) less 3 bytes of DataFragment.
FRAGMENT_DR3, FRAGMENT_DR5 = 115 - 3, 242 - 3
# What detools is allowed for its smallest patch: windows up to 2 KiB.
SMALL_RAM = [
    {"compression": "crle"},
    *({"compression": "heatshrink", "heatshrink_window_sz2": w, "heatshrink_lookahead_sz2": l}
      for w in (8, 9, 10, 11) for l in (5, 6, 7, 8) if l < w),
]


def fuota(*words):
    """Runs the command line, which prints JSON; a refusal raises."""
    command = [str(BINARIES / "fuota"), "--json", *map(str, words)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip())
    return json.loads(run.stdout)


def make_delta(folder, old, new, *options):
    """A delta by our command line, and what that says about it."""
    for name, data in (("old", old), ("new", new)):
        (folder / name).write_bytes(data)
    shown = fuota("image", "delta", folder / "old", folder / "new", "-o", folder / "delta", *options)
    return (folder / "delta").read_bytes(), shown


def detools_applies(old, patch):
    made = io.BytesIO()
    detools.apply_patch(io.BytesIO(old), io.BytesIO(patch), made)
    return made.getvalue()


def detools_makes(old, new, **options):
    patch = io.BytesIO()
    detools.create_patch(io.BytesIO(old), io.BytesIO(new), patch, use_mmap=False, **options)
    return patch.getvalue()


class Deltas(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        kept = [(VECTORS / name).read_bytes() for name in ("delta_base.bin", "delta_target.bin")]
        pairs, cls.missing = firmware_pairs.fetch(CACHE)
        cls.pairs = [("kept vectors", "STM32F405", *kept), *pairs]
        for text in cls.missing:
            print(f"\nWARNING: REAL FIRMWARE NOT FETCHED, TESTED WITHOUT IT: {text}", file=sys.stderr)
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = pathlib.Path(scratch.name)
        cls.deltas = {}
        for name, _, old, new in cls.pairs:
            for options in ((), ("--compression", "heatshrink"), ("--compression", "crle")):
                cls.deltas[name, options] = (old, new, *make_delta(cls.folder, old, new, *options))

    def test_the_python_decoder_applies_them(self):
        for key, (old, new, delta, _) in self.deltas.items():
            with self.subTest(pair=key):
                self.assertTrue(detools_applies(old, delta[HEADER:]) == new)

    def test_our_decoder_applies_them(self):
        for key, (old, new, delta, _) in self.deltas.items():
            with self.subTest(pair=key):
                (self.folder / "old").write_bytes(old)
                (self.folder / "delta").write_bytes(delta)
                fuota("image", "apply-delta", self.folder / "old", self.folder / "delta", "-o", self.folder / "made")
                self.assertTrue((self.folder / "made").read_bytes() == new)

    def test_the_header_says_what_they_are_for(self):
        for key, (old, new, delta, shown) in self.deltas.items():
            with self.subTest(pair=key):
                self.assertEqual(delta[:8], b"FDLT\x01\x01\x58\x00")
                words = [int.from_bytes(delta[at : at + 4], "little") for at in range(8, 24, 4)]
                self.assertEqual(words, [len(old), len(new), 0, len(delta) - HEADER])
                self.assertEqual(delta[24:56], hashlib.sha256(old).digest())
                self.assertEqual(delta[56:88], hashlib.sha256(new).digest())
                self.assertEqual(shown["delta_bytes"], len(delta))

    def test_they_are_no_larger_than_those_of_detools(self):
        for (name, options), (old, new, delta, shown) in self.deltas.items():
            with self.subTest(pair=name, options=options):
                theirs = detools_makes(old, new, compression=shown["compression"])
                self.assertLessEqual(len(delta) - HEADER, len(theirs) * 1.005)

    def test_patches_of_detools_are_applied_in_our_wrapper(self):
        for name, _, old, new in self.pairs:
            ours = self.deltas[name, ()][2]
            for compression in ("heatshrink", "crle", "none"):
                with self.subTest(pair=name, compression=compression):
                    patch = detools_makes(old, new, compression=compression)
                    header = ours[:20] + len(patch).to_bytes(4, "little") + ours[24:HEADER]
                    (self.folder / "old").write_bytes(old)
                    (self.folder / "delta").write_bytes(header + patch)
                    words = (self.folder / "old", self.folder / "delta", "-o", self.folder / "made")
                    fuota("image", "apply-delta", *words)
                    self.assertTrue((self.folder / "made").read_bytes() == new)

    def test_the_wrong_base_is_refused(self):
        old, new, delta, _ = self.deltas["kept vectors", ()]
        (self.folder / "old").write_bytes(new)
        (self.folder / "delta").write_bytes(delta)
        with self.assertRaisesRegex(RuntimeError, "base is another image"):
            fuota("image", "apply-delta", self.folder / "old", self.folder / "delta", "-o", self.folder / "made")

    def test_they_are_applied_in_c_with_the_decoder_of_heatshrink(self):
        source = firmware_pairs.archive(CACHE, "heatshrink2", "0.15.0", firmware_pairs.SDIST)
        inner = "heatshrink2-0.15.0/heatshrink2/_heatshrink/"
        for file in ("heatshrink_common.h", "heatshrink_config.h", "heatshrink_decoder.h", "heatshrink_decoder.c"):
            (self.folder / file).write_bytes(firmware_pairs.read_member(source, inner + file))
        program = self.folder / "apply_test"
        flags = ["-std=c11", "-Wall", "-fsanitize=undefined", "-I", self.folder, "-I", ROOT / "docs" / "device"]
        sources = [ROOT / "tests" / "device" / "apply_test.c", self.folder / "heatshrink_decoder.c"]
        subprocess.run(["cc", *flags, *sources, "-o", program], check=True)
        for key, (old, new, delta, _) in self.deltas.items():
            with self.subTest(pair=key):
                (self.folder / "old").write_bytes(old)
                (self.folder / "delta").write_bytes(delta)
                words = [self.folder / name for name in ("old", "delta", "made")]
                run = subprocess.run([program, *words], check=True, capture_output=True)
                self.assertTrue((self.folder / "made").read_bytes() == new)
                self.assertLess(int(run.stdout), 400)

    def test_the_c_decoder_of_detools_applies_them(self):
        folder = os.environ.get("DETOOLS_C")
        if not folder:
            print("\nWARNING: C DECODER OF DETOOLS NOT TESTED: set DETOOLS_C to src/c of a checkout", file=sys.stderr)
            self.skipTest("DETOOLS_C is not set")
        folder = pathlib.Path(folder)
        program = self.folder / "detools"
        flags = ["-DDETOOLS_CONFIG_COMPRESSION_LZMA=0", "-I", folder, "-I", folder / "heatshrink"]
        sources = [folder / "main.c", folder / "detools.c", folder / "heatshrink" / "heatshrink_decoder.c"]
        subprocess.run(["cc", *flags, *sources, "-o", program], check=True)
        for key, (old, new, delta, _) in self.deltas.items():
            with self.subTest(pair=key):
                (self.folder / "old").write_bytes(old)
                (self.folder / "patch").write_bytes(delta[HEADER:])
                words = ["apply_patch", self.folder / "old", self.folder / "patch", self.folder / "made"]
                subprocess.run([program, *words], check=True, capture_output=True)
                self.assertTrue((self.folder / "made").read_bytes() == new)


def table():
    """Prints the table of docs/delta.md."""
    pairs, missing = firmware_pairs.fetch(CACHE)
    heads = ["images", "machine", "full", "delta", "its patch", "detools, same compression", "detools, best of 2 KiB",
             "frames DR3", "frames DR5"]
    print("|", " | ".join(heads), "|")
    print("|---" * len(heads) + "|")
    frames = lambda size, fragment: -(-size // fragment)
    with tempfile.TemporaryDirectory() as folder:
        for name, machine, old, new in pairs:
            delta, shown = make_delta(pathlib.Path(folder), old, new)
            same = len(detools_makes(old, new, compression=shown["compression"]))
            best = min(len(detools_makes(old, new, **options)) for options in SMALL_RAM)
            saved = [f"{frames(len(new), size)} → {frames(len(delta), size)}" for size in (FRAGMENT_DR3, FRAGMENT_DR5)]
            patch = f"{shown['patch_bytes']} {shown['compression']}"
            print("|", " | ".join([name, machine, str(len(new)), str(len(delta)), patch, str(same), str(best), *saved]), "|")
    for text in missing:
        print(f"not fetched: {text}", file=sys.stderr)


if __name__ == "__main__":
    if "--table" in sys.argv:
        table()
    else:
        unittest.main(verbosity=2)
