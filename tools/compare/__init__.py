"""The accuracy debugger.

records   what is found           compare   each layer's error over data (fxquant.compare)
watch     statistics of a value   recover   which layers to leave in float (fxquant.recover)
table     for a terminal
"""
