"""Whom an ACME CA knows us as. The conversation is acme_client.py, which takes a third of a second to import."""

import hashlib
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Account:
    """An account with a CA.

    Args:
        directory: URL of the CA's directory.
        ca: path of certificates that its own is verified with; "" for those that the system trusts.
        eab_key_id, eab_hmac: of an account that exists with the CA already, where it wants one; "" otherwise.
    """

    directory: str
    email: str = ""
    ca: str = ""
    eab_key_id: str = ""
    eab_hmac: str = field(default="", repr=False)

    @property
    def folder(self) -> str:
        """Where it is kept, below the state directory."""
        digest = hashlib.sha256(f"{self.directory}\n{self.email}\n{self.eab_key_id}".encode()).hexdigest()
        return f"acme/{urlsplit(self.directory).hostname or 'ca'}-{digest[:12]}"
