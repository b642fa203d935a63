"""``python -m demixr_daemon``"""

import sys

from demixr_daemon.cli import main

sys.exit(main())
