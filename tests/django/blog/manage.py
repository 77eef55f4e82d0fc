#!/usr/bin/env python3
"""Runs the management commands of the blog, from any directory."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts this file's own directory first; the package is importable from the one above it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "blog.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
