"""Notebook 02: any dataset -> conversations -> ids and labels -> Arrow, with a report and a proof.

reading/        any file -> conversations       augmentation/   what a FAQ lacks: wordings, declines, general rows
splits          which are learned and asked     chat_template, encoding     ids and labels
checks          the proof                       findings                    what is odd
prepare         all of it in one call           prepared, report            what it stores, what people see
"""
