"""vLLM's own offline generation, for `benchmarks.serving`. It runs in vLLM's environment, which has nothing of this project:
`python serving_offline.py OPTIONS` with the options as JSON (folder, prompts, max_tokens, temperature, args, result). It writes
`{"tokens": ..., "seconds": ...}` to the file `result`, because vLLM prints other things to standard output.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Load the model, generate once to warm up, and measure."""
    from vllm import LLM, SamplingParams

    given: dict[str, Any] = json.loads(sys.argv[1])
    model = LLM(model=given["folder"], seed=0, **{name.replace("-", "_"): value for name, value in given["args"].items()})
    turns = [[{"role": "user", "content": prompt}] for prompt in given["prompts"]]

    def generate(some: list[Any], max_tokens: int) -> int:
        sampling = SamplingParams(temperature=given["temperature"], max_tokens=max_tokens, ignore_eos=True)
        found = model.chat(some, sampling, use_tqdm=False)
        return sum(len(answer.token_ids) for each in found for answer in each.outputs)

    generate(turns[:2], 4)
    started = time.perf_counter()
    tokens = generate(turns, given["max_tokens"])
    Path(given["result"]).write_text(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
