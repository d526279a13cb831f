"""Any file, folder or Hub dataset -> conversations.

sources         which files             readers             their rows
formats         which columns: cells    turns               messages, repaired and checked
conversations   all rows of a dataset   pairs               preference pairs and rated answers
"""
