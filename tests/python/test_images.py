"""Images and signatures against the tools that everybody else uses: MCUboot's imgtool and openssl.

What they make, `fuota image inspect` has to accept, and every tampered copy of it refuse with a reason; what
`fuota image sign` makes, they have to accept. Offline: no server runs. `FUOTA_BIN_DIR` names the folder of the binary
(default target/debug); imgtool is the one beside the running Python.
"""

import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUOTA = pathlib.Path(os.environ.get("FUOTA_BIN_DIR", ROOT / "target" / "debug")) / "fuota"
IMGTOOL = pathlib.Path(sys.executable).parent / "imgtool"

COMMAND_SECONDS = 120
# Places of an image that are tampered with, one at a time.
FLIPS = 24
BODY = bytes(range(256)) * 3 + b"end of the code"
# Our names of key types; those of imgtool are the same.
TYPES = ["ed25519", "ecdsa-p256", "rsa-2048", "rsa-3072"]


def run(*command):
    """Runs a command; its exit status, output and error output."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def must(*command):
    """Runs a command that has to succeed; its output."""
    status, out, err = run(*command)
    if status != 0:
        raise AssertionError(f"{command}: {status}\n{out}{err}")
    return out


def inspect(image, *keys, signature=None):
    """What `fuota image inspect --json` says: exit status and document."""
    words = [word for key in keys for word in ("--key", key)]
    if signature is not None:
        words += ["--signature", signature]
    status, out, err = run(FUOTA, "--json", "image", "inspect", image, *words)
    if status not in (0, 1):
        raise AssertionError(f"inspect: {status}\n{err}")
    return status, json.loads(out)


class Images(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.scratch.name)
        cls.body = cls.folder / "body.bin"
        cls.body.write_bytes(BODY)
        for kind in TYPES:
            key = cls.private(kind)
            must(IMGTOOL, "keygen", "-k", key, "-t", kind)
            must(IMGTOOL, "getpub", "-k", key, "-e", "pem", "-o", cls.public(kind))

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    @classmethod
    def private(cls, kind):
        return cls.folder / f"{kind}.pem"

    @classmethod
    def public(cls, kind):
        return cls.folder / f"{kind}.pub.pem"

    def imgtool(self, name, *words, kind=None, slot="0x20000"):
        """An image that imgtool makes."""
        image = self.folder / name
        key = [] if kind is None else ["-k", self.private(kind)]
        common = ["-v", "1.2.3+4", "-H", "0x40", "--pad-header", "-S", slot, "--align", "4"]
        must(IMGTOOL, "sign", *key, *common, *words, self.body, image)
        return image

    def check_good(self, image, kind):
        """The image verifies with its key, with no other, and is described as what it is."""
        status, said = inspect(image, self.public(kind))
        self.assertEqual((status, said["good"], said["error"]), (0, True, None), said)
        self.assertEqual(said["embedded_signature"]["outcome"], "verified")
        self.assertEqual(said["container"], "mcuboot")
        self.assertEqual(said["mcuboot"]["version"], "1.2.3+4")
        self.assertTrue(said["mcuboot"]["digest_ok"])
        other = TYPES[(TYPES.index(kind) + 1) % len(TYPES)]
        status, refused = inspect(image, self.public(other))
        self.assertEqual(status, 1)
        self.assertIn("another key", refused["embedded_signature"]["reason"])
        return said["mcuboot"]

    def check_tampered(self, image, kind):
        """A flipped bit at places all over the image is refused, and somebody is told why."""
        good = image.read_bytes()
        copy = self.folder / "tampered.bin"
        size = inspect(image)[1]["mcuboot"]["image_size"]
        places = {size * step // FLIPS for step in range(FLIPS)} | {size - 1, len(good) - 1}
        for place in sorted(places):
            bad = bytearray(good)
            bad[place] ^= 1 << (place % 8)
            copy.write_bytes(bad)
            status, said = inspect(copy, self.public(kind))
            if place == 0:
                # Without its magic it is any file, and that is not signed.
                self.assertEqual(said["container"], "raw")
            self.assertEqual((status, said["good"]), (1, False), f"byte {place}")
            check = said["embedded_signature"]
            self.assertEqual(check["outcome"], "refused", f"byte {place}")
            self.assertGreater(len(check["reason"]), 10)

    def test_each_key_type(self):
        for kind in TYPES:
            with self.subTest(kind):
                image = self.imgtool(f"{kind}.bin", kind=kind)
                said = self.check_good(image, kind)
                self.assertEqual(len(said["key_hash"]), 64)
                self.check_tampered(image, kind)

    def test_full_key_instead_of_its_hash(self):
        image = self.imgtool("full.bin", "--public-key-format", "full", "--pad-sig", kind="ecdsa-p256")
        self.assertIsNone(self.check_good(image, "ecdsa-p256")["key_hash"])
        self.check_tampered(image, "ecdsa-p256")

    def test_pure_signature(self):
        image = self.imgtool("pure.bin", "--pure", kind="ed25519")
        said = self.check_good(image, "ed25519")
        self.assertEqual((said["digest_type"], said["signature_pure"]), ("SHA512", True))
        self.check_tampered(image, "ed25519")

    def test_sha512(self):
        image = self.imgtool("sha512.bin", "--sha", "512", kind="ed25519")
        said = self.check_good(image, "ed25519")
        self.assertEqual((said["digest_type"], said["signature_pure"]), ("SHA512", False))
        self.check_tampered(image, "ed25519")

    def test_dependencies_counter_and_the_rest_of_the_protected_tlvs(self):
        words = ["-d", "(1,1.2.0+0), (2,3.4.5+6)", "-s", "auto", "--boot-record", "app"]
        words += ["--custom-tlv", "0xa5", "0x1234", "--vid", "example.org", "--cid", "sensor"]
        image = self.imgtool("tlvs.bin", *words, kind="rsa-2048")
        said = self.check_good(image, "rsa-2048")
        needed = [(it["image_id"], it["min_version"]) for it in said["dependencies"]]
        self.assertEqual(needed, [(1, "1.2.0"), (2, "3.4.5+6")])
        self.assertEqual(said["security_counter"], 0x01020003)
        names = [tlv["name"] for tlv in said["tlvs"] if tlv["protected"]]
        wanted = ["SEC_CNT", "BOOT_RECORD", "DEPENDENCY", "DEPENDENCY", "UUID_VID", "UUID_CID", "VENDOR"]
        self.assertEqual(names, wanted)
        self.check_tampered(image, "rsa-2048")

    def test_padding(self):
        for words, padding in [
            (["--pad"], "trailer"),
            (["--confirm"], "confirmed_trailer"),
            (["--confirm", "--max-align", "16"], "confirmed_trailer"),
            (["--confirm", "--max-align", "32"], "confirmed_trailer"),
            (["--pad", "-R", "0"], "trailer"),
        ]:
            with self.subTest(words):
                image = self.imgtool("padded.bin", *words, kind="ed25519", slot="0x2000")
                said = self.check_good(image, "ed25519")
                self.assertEqual(said["padding"], padding)
                self.assertEqual(image.stat().st_size, 0x2000)
        self.check_tampered(image, "ed25519")
        # Something in the padding is something that nobody signed.
        bad = bytearray(image.read_bytes())
        bad[len(bad) // 2] ^= 1
        (self.folder / "stowaway.bin").write_bytes(bad)
        status, said = inspect(self.folder / "stowaway.bin", self.public("ed25519"))
        self.assertEqual(status, 1)
        self.assertIn("not covered", said["error"])

    def test_what_is_not_trusted(self):
        unsigned = self.imgtool("unsigned.bin")
        status, said = inspect(unsigned, self.public("ed25519"))
        self.assertEqual((status, said["embedded_signature"]["reason"]), (1, "image is not signed"))
        self.assertEqual(inspect(unsigned)[0], 0)
        for sha in ("384", "512"):
            image = self.imgtool(f"unsigned{sha}.bin", "--sha", sha)
            self.assertTrue(inspect(image)[1]["mcuboot"]["digest_ok"])
        must(IMGTOOL, "keygen", "-k", self.folder / "x.pem", "-t", "x25519")
        encrypted = self.imgtool("encrypted.bin", "-E", self.folder / "x.pem", kind="ed25519")
        status, said = inspect(encrypted, self.public("ed25519"))
        self.assertEqual((status, said["embedded_signature"]["reason"]), (1, "image is encrypted"))
        must(IMGTOOL, "keygen", "-k", self.folder / "p384.pem", "-t", "ecdsa-p384")
        status, _, err = run(FUOTA, "keys", "export", self.folder / "p384.pem")
        self.assertEqual(status, 2)
        self.assertIn("not P-256", err)

    def test_images_of_fuota_are_those_of_imgtool(self):
        for kind in TYPES:
            with self.subTest(kind):
                image = self.folder / f"ours-{kind}.bin"
                words = ["--version", "1.2.3+4", "--header-size", "0x40", "--security-counter", "auto"]
                words += ["--dependency", "(1,1.2.0+0)", "--slot-size", "0x20000", "--align", "4"]
                must(FUOTA, "image", "sign", self.body, "--key", self.private(kind), *words, "-o", image)
                must(IMGTOOL, "verify", "-k", self.private(kind), image)
                self.check_good(image, kind)
                theirs = self.imgtool(f"theirs-{kind}.bin", "-s", "auto", "-d", "(1,1.2.0+0)", kind=kind)
                ours, theirs = image.read_bytes(), theirs.read_bytes()
                covered = 0x40 + len(BODY) + 28
                self.assertEqual(ours[:covered], theirs[:covered])
                if kind == "ed25519":
                    self.assertEqual(ours, theirs)

    def test_padded_images_of_fuota(self):
        image, key = self.folder / "ours-padded.bin", self.private("ed25519")
        words = ["--version", "1.2.3+4", "--header-size", "0x40", "--slot-size", "0x2000", "--align", "4"]
        must(FUOTA, "image", "sign", self.body, "--key", key, *words, "--pad", "-o", image)
        theirs = self.imgtool("theirs-padded.bin", "--pad", kind="ed25519", slot="0x2000")
        self.assertEqual(image.read_bytes(), theirs.read_bytes())
        words[words.index("0x2000")] = "0x800"
        status, _, err = run(FUOTA, "image", "sign", self.body, "--key", key, *words, "-o", image)
        self.assertEqual(status, 2)
        self.assertIn("do not fit a slot of 2048 bytes", err)

    def test_a_header_in_the_room_that_the_linker_left(self):
        linked, image = self.folder / "linked.bin", self.folder / "in-file.bin"
        linked.write_bytes(bytes(0x40) + BODY)
        key = self.private("ed25519")
        words = ["--version", "1.2.3+4", "--header-size", "0x40", "-o", image]
        _, _, err = run(FUOTA, "image", "sign", linked, "--key", key, *words)
        self.assertIn("--header-in-file", err)
        must(FUOTA, "image", "sign", linked, "--key", key, "--header-in-file", *words)
        theirs = self.folder / "in-file-theirs.bin"
        must(IMGTOOL, "sign", "-k", key, "-v", "1.2.3+4", "-H", "0x40", "-S", "0x20000", linked, theirs)
        self.assertEqual(image.read_bytes(), theirs.read_bytes())

    def test_keys_of_fuota_are_taken_by_imgtool_and_openssl(self):
        for kind in TYPES:
            with self.subTest(kind):
                key = self.folder / f"made-{kind}.pem"
                made = json.loads(must(FUOTA, "--json", "keys", "generate", "--type", kind, "-o", key))
                self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
                must("openssl", "pkey", "-in", key, "-check", "-noout")
                pem = must(FUOTA, "keys", "export", key)
                self.assertEqual(pem, must("openssl", "pkey", "-in", key, "-pubout"))
                # But for the remark in the first line.
                ours = must(FUOTA, "keys", "export", key, "--format", "c").splitlines()[1:]
                theirs = must(IMGTOOL, "getpub", "-k", key).splitlines()[1:]
                self.assertEqual(ours, theirs)
                image = self.folder / "made.bin"
                self.assertEqual(len(made["key_id"]), 64)
                words = ["-v", "1.0.0", "-H", "32", "--pad-header", "-S", "0x20000"]
                must(IMGTOOL, "sign", "-k", key, *words, self.body, image)
                self.assertEqual(inspect(image)[1]["mcuboot"]["key_hash"], made["key_id"])
                before = key.read_bytes()
                status, _, err = run(FUOTA, "keys", "generate", "--type", kind, "-o", key)
                self.assertEqual((status, key.read_bytes()), (2, before))
                self.assertIn("exists", err)

    def test_detached_signatures_of_openssl(self):
        signature = self.folder / "theirs.sig"
        for kind in TYPES:
            ways = [["dgst", "-sha256", "-sign", self.private(kind), "-out", signature, self.body]]
            if kind == "ed25519":
                ways = [["pkeyutl", "-sign", "-rawin", "-inkey", self.private(kind)]]
                ways[0] += ["-in", self.body, "-out", signature]
            if kind.startswith("rsa"):
                for salt in ("digest", "max"):
                    pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", f"rsa_pss_saltlen:{salt}"]
                    ways.append(ways[0][:2] + pss + ways[0][2:])
            for way in ways:
                with self.subTest(way=way[:6]):
                    must("openssl", *way)
                    keys = [self.public(other) for other in TYPES]
                    status, said = inspect(self.body, *keys, signature=signature)
                    self.assertEqual((status, said["detached_signature"]["outcome"]), (0, "verified"))
                    others = [self.public(other) for other in TYPES if other != kind]
                    self.assertEqual(inspect(self.body, *others, signature=signature)[0], 1)
                    good = signature.read_bytes()
                    for place in range(0, len(good), max(1, len(good) // FLIPS)):
                        bad = bytearray(good)
                        bad[place] ^= 1 << (place % 8)
                        signature.write_bytes(bad)
                        status, said = inspect(self.body, *keys, signature=signature)
                        self.assertEqual((status, said["detached_signature"]["outcome"]), (1, "refused"))

    def test_detached_signatures_of_fuota(self):
        signature = self.folder / "body.bin.sig"
        for kind in TYPES:
            for pss in [[], ["--pss"]] if kind.startswith("rsa") else [[]]:
                with self.subTest(kind=kind, pss=pss):
                    must(FUOTA, "image", "sign", self.body, "--key", self.private(kind), "--detached", *pss)
                    check = ["dgst", "-sha256", "-verify", self.public(kind), "-signature", signature]
                    if pss:
                        check += ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]
                    check.append(self.body)
                    if kind == "ed25519":
                        check = ["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", self.public(kind)]
                        check += ["-in", self.body, "-sigfile", signature]
                    must("openssl", *check)

    def test_files_that_are_no_firmware_are_doubted(self):
        for name, content, guess in [
            ("app.elf", b"\x7fELF\x01\x01\x01" + bytes(9), "ELF"),
            ("app.hex", b":020000040800F2\n:00000001FF\n", "Intel HEX"),
            ("app.zip", b"PK\x03\x04" + bytes(26), "zip archive"),
        ]:
            path = self.folder / name
            path.write_bytes(content)
            status, said = inspect(path)
            self.assertEqual((status, said["content"], len(said["warnings"])), (0, guess, 1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
