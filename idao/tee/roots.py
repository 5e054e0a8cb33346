"""The vendors' roots: pinned by the SHA-256 of their public keys, and the certificates that travel with idao.

Certificates found in evidence or collateral never add trust: a chain ends at one of these keys or fails.
The simulator's keys are apart, in `SIMULATED`, which only evidence of the kind `simulated` is judged by.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from idao.frozen import frozen


@frozen
class Trust:
    """The public keys (SHA-256 of the SPKI, hex) that stand for one world of roots."""

    intel: frozenset[str]
    intel_authorities: frozenset[str]
    """The issuers of PCK certificates: Platform CA and Processor CA."""
    intel_signers: frozenset[str]
    """The signers of TCB info and QE identity: no other key under the root may speak of levels."""
    amd: frozenset[str]
    nitro: frozenset[str]
    nvidia: frozenset[str]
    tpm: frozenset[str]
    """Clouds that certify the attestation keys of their virtual TPMs."""
    own_root: bool = False
    """Must a library that has Intel's root built in be given another (simulator)?"""


VENDORS = Trust(
    intel=frozenset({"a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"}),
    intel_authorities=frozenset(
        {
            "5af8709d23989004d46b7c02b1f88d0e65f100ce860eec10e94104a1f4d15594",  # Platform CA
            "cd7c95bd6ea4c67253a57b1de6ed47bd839ba5af102c5bbedf3fc414cd1a9cbc",  # Processor CA
        }
    ),
    # One key since 2018, certified twice (2018-05-21 and 2025-05-06).
    intel_signers=frozenset({"bd7d4b9c805d92607dee34683a104abfa7b2a487e06af2edf0740a8666cbc22f"}),
    amd=frozenset(
        {
            "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",  # ARK-Milan
            "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",  # ARK-Genoa
            "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",  # ARK-Turin
        }
    ),
    nitro=frozenset({"f2caf5ecc6190b4a8399b78bc58a2bbcd0382375db8a1bfd78a82743874fd225"}),
    nvidia=frozenset({"a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4"}),
    tpm=frozenset(
        {
            "56a613f57126a385dd6949294e93b0b566f96ab0573be0c2368e6f5ca779831f",  # Google EK/AK CA Root
            "f23057f4f97d1d90e4cae0ce91d5a0fc99069f0a1bc147021dca33b1e9c4d0d9",  # Google tpm_ek_root_1
        }
    ),
)


SIMULATED = Trust(
    intel=frozenset({"1fb69bc2987535bc938be8a92b1819b578078e289704c129d52dcddf4558ee80"}),
    intel_authorities=frozenset({"bc942e40dcbdcb28f2334e39330a3086dbf547a866ce443c85ec2a2365bc9159"}),
    intel_signers=frozenset({"264751116fd54f9e650cccc21d6c1318a7df2964c360db603cb11f2d9663f1bf"}),
    amd=frozenset({"71b0334c1850cd6891e9f0ed78d0e7d679512f86f356e8b712235ce207b5e3e9"}),
    nitro=frozenset(),
    nvidia=frozenset(),
    tpm=frozenset(),
    own_root=True,
)
"""Public keys whose private halves everybody has. No flag joins them with `VENDORS`."""


@cache
def certificates(vendor: str) -> tuple[bytes, ...]:
    """The DER certificates shipped for `amd`, `google`, `nitro`, `nvidia`, `intel` or `simulated`."""
    from idao.tee.certs import pem_blocks

    return tuple(pem_blocks(shipped(f"{vendor}.pem"), "CERTIFICATE"))


def shipped(name: str) -> bytes:
    """A file of the package's `roots`, by the loader that brought this module: `importlib.resources` takes
    longer to load than the roots to read."""
    loader: Any = __spec__.loader
    return bytes(loader.get_data(__file__.rpartition("roots.py")[0] + f"roots/{name}"))
