"""Print the digest of what COUNT seeded programs commit, from a process with its own hash seed.

``python programs_child.py COUNT``, with the roots of the checkout in PYTHONPATH.
"""

from __future__ import annotations

import hashlib
import random
import sys

from tests.core.programs import Program, digest, random_generator
from tests.core.support import Instance, World


def main() -> None:
    ballast = [bytearray(random.randrange(1, 5_000)) for _ in range(random.randrange(1_000))]
    digests: list[str] = []
    for seed in range(int(sys.argv[1])):
        program = Program(random.Random(seed))
        digests.append(digest(program.world().run(cut=set(range(seed % 5, 1_000, 5)).__contains__).commits))
        generator = Instance(random_generator(random.Random(seed)))
        digests.append(digest(World(generator, [(1, generator.event("DOOR"))]).run().commits))
    print(hashlib.sha256("".join(digests).encode()).hexdigest())
    del ballast  # it lay between the objects above


if __name__ == "__main__":
    main()
