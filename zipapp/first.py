"""First code of the one-file build, its `__main__.py`: a few lines, for Python compiles them at every start.

They must run under old Pythons, which `stub` tells that they are too old.
"""

import sys

if __name__ == "__main__":
    try:
        stub = __import__("stub-" + sys.implementation.cache_tag)  # bytecode
    except (AttributeError, ImportError):
        import stub
    sys.exit(stub.run())
