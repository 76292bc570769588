"""Front ends: a model of any format → :class:`~edgekd_converters.load.source.Source`, each in a file of its own."""
