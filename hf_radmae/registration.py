"""Makes `import hf_radmae` reach transformers' pipelines without importing them, which takes seconds."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

THEIRS, OURS = "transformers.pipelines", "hf_radmae.pipelines"


class _AfterPipelines(MetaPathFinder):
    """Imports our pipelines, which register themselves, as soon as transformers' own are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == THEIRS else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                import_module(OURS)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register_pipelines() -> None:
    """Register the pipelines now where transformers' are imported, else as soon as they are."""
    if THEIRS in sys.modules:
        import_module(OURS)
    else:
        sys.meta_path.insert(0, _AfterPipelines())
