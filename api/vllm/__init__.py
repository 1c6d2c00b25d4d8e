"""All contact of `api` with what vLLM does not publish, one file each."""
