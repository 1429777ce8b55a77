"""Compare fastlb with nginx, HAProxy and a relay that parses nothing; see bench/README.md."""
