"""What pyproject.toml cannot say: data folders of the checkout land in the wheel as ``hwgen/_data/<name>``, and how an editable install
finds the packages."""

from pathlib import Path
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import _StaticPth, editable_wheel  # of the pinned setuptools

DATA = ("boards", "templates", "rtl/sv", "hls", "sim/tb", "flows")     # those of them that exist
IGNORE = shutil.ignore_patterns("__pycache__", "*.pyc")
ROOT = Path(__file__).resolve().parent


class BuildWithData(build_py):
    """Copies the data folders; an editable install reads them in the checkout instead (hwgen/paths.py)."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for name in DATA:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, Path(self.build_lib, "hwgen", "_data", name), dirs_exist_ok=True, ignore=IGNORE)


class EditableByPath(editable_wheel):
    """The folders of the packages go onto ``sys.path``.

    setuptools would install an import hook. It is asked after ``sys.path``, so in the folder that holds a clone called ``hwgen`` that
    folder, empty as a package, would be imported instead.
    """

    def _select_strategy(self, name, tag, build_lib):
        return _StaticPth(self.distribution, name, [ROOT, ROOT / "rtl", ROOT / "sim"])


setup(cmdclass={"build_py": BuildWithData, "editable_wheel": EditableByPath})
