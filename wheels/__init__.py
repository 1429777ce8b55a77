"""The recipe for binary wheels: one file for every CPython from 3.11 on. `./dev wheel` runs it; README.md beside this file explains it."""
