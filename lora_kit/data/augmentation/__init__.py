"""Rows that a file lacks: other wordings of its questions, questions to decline, general questions.

rewording       questions in other words, by the base or by rules: question_rules, answer_rules
same_question   whether two wordings ask the same
own_rows        questions to decline and general ones
base_answers    what the base itself answers
"""
