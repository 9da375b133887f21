"""A secret and keys that are the same at every run: tests only."""

from criu_agent.repo import secret as secrets_of
from criu_agent.repo.secret import Generation, Secret, introduction, private_key, signer_of

REPOSITORY = "0123456789abcdef0123456789abcdef"
OTHER_REPOSITORY = "f" * 32
RUN = "a1b2c3d4"
OTHER_RUN = "a1b2c3d5"
PACK = "00112233445566778899aabbccddeeff"
OTHER_PACK = "00112233445566778899aabbccddeefe"
NOW = "2026-11-21T03:14:15.123456Z"


def secret(generations: int = 1, repository: str = REPOSITORY) -> Secret:
    """Master of generation g: 32 bytes g; seed: 32 bytes 255 - g."""
    seeds = [bytes([255 - number]) * 32 for number in range(1, generations + 1)]
    made = []
    for number, seed in enumerate(seeds, 1):
        signer = signer_of(seed)
        message = introduction(repository, number, signer)
        signature = private_key(seeds[number - 2]).sign(message) if number > 1 else b""
        made.append(
            Generation(number=number, master=bytes([number]) * 32, signer=signer, introduction=signature),
        )
    return Secret(repository=repository, generations=tuple(made), seed=seeds[-1])


def stranger(repository: str = REPOSITORY) -> Secret:
    """A secret of somebody else for the same repository."""
    return secrets_of.new(repository)
