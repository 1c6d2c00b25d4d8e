"""Everything of vLLM's own that our code relies on: the table to upgrade by.

By file of ours: what vLLM calls it, what must be there, and what it is to us. `make vllm-surface
VERSION=...` reads it against a vLLM's sources. tests/upstream/test_surface.py holds that every
import of vLLM in our sources is here, and that nothing is here that its file does not name.

What cannot be read off a name is proved by running: tests/engine against the vLLM of this
environment.
"""

from tests.upstream.surface.api import API
from tests.upstream.surface.api_vllm import API_VLLM
from tests.upstream.surface.patches import PATCHES
from tests.upstream.surface.plugin import PLUGIN
from tests.upstream.surface.row import Row

SURFACE: dict[str, list[Row]] = PLUGIN | PATCHES | API | API_VLLM
