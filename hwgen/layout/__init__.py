"""What all engines share once steps get places: lifetimes and memory maps, the merge of tasks, the weight image."""
