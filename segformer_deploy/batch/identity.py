"""Which engine it is: by its bytes, so that no batch goes on with another one unnoticed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segformer_deploy.engine.fingerprint import engine_hash
from segformer_deploy.errors import EngineError
from segformer_deploy.version import __version__


@dataclass(frozen=True)
class MadeBy:
    """What a batch was begun with; it travels to the workers.

    Attributes:
        engine: `engine_hash` of its engine.
        version: of this package.
    """

    engine: str
    version: str = __version__

    def check(self, engine: Path) -> None:
        """EngineError where this process would make other results."""
        if self.version != __version__:
            raise EngineError(
                f"a worker has segformer-deploy {__version__}",
                f"{self.version}, with which the batch was begun",
                "install the same version on all nodes",
            )
        found = engine_hash(engine)
        if found != self.engine:
            raise EngineError(
                f"the engine {engine} is not the one that the batch was begun with "
                f"(SHA-256 {found[:12]}…)",
                f"the same engine for all chunks (SHA-256 {self.engine[:12]}…)",
                "put it back, on all nodes, and give the same command again; or --restart with "
                "the new one",
            )
