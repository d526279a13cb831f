"""Notebook 02: any dataset -> conversations -> ids and labels -> Arrow, with a report and a proof."""
