"""The toy as a folder, as studies are found."""

from tests.toy import STUDY

__all__ = ["STUDY"]
