"""What `import tangents` gives, and what it leaves alone."""

import subprocess
import sys

import tangents


def test_each_name_of_the_face_is_there():
    for name in tangents.__all__:
        assert getattr(tangents, name).__name__ == name and name in dir(tangents)
    assert sorted(tangents.__all__) == tangents.__all__ and len(tangents.__all__) <= 16
    assert set(tangents._HOMES) == set(tangents.__all__)


def test_no_name_of_the_face_is_a_modules():
    from pkgutil import iter_modules

    assert not {module.name for module in iter_modules(tangents.__path__)} & {*tangents.__all__}


def test_the_import_loads_nothing():
    code = "import sys, tangents; print(*(n for n in ('torch', 'numpy') if n in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not found.stdout.strip()
