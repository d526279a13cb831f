"""Notebook 02: any dataset -> conversations -> ids and labels -> Arrow, with a report and a proof.

sources         which files             readers             their rows
formats         which columns: cells    turns               messages, repaired and checked
conversations   all rows of a dataset   splits, own_rows    which are learned, which are asked
rewording       questions in other words: base_answers, question_rules, same_question
encoding        ids and labels          checks              the proof
findings        what is odd             report              what people see
prepare         all of it in one call
"""
