# SPDX-License-Identifier: MIT
# The extension module, which is nobody's interface: python/module.
from typing import Any

def __getattr__(name: str) -> Any: ...
