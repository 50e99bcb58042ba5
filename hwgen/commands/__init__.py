"""The commands of `hwgen.cli`, by what they are for: `pipeline` makes and runs builds, `look` shows them, `take` gives single cores."""
