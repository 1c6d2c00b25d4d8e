"""What a task is (`contract`), tasks on disk (`tasks`), the HTTP contract and its client (`schema`,
`client`), and all that runs inside vLLM (`plugin`).

Only `plugin` may import vllm; everything else here is what calibration and serving share.
"""

__version__ = "0.1.0"
