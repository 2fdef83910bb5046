"""The error for a setting whose value cannot be used."""


class SettingError(ValueError):
    """A setting has a value that the program cannot use.

    Library code names the setting by its field; `workspace.cli.run_command` prints it as the flag that it is.

    >>> str(SettingError("held_out_folds", "[7]: this data set has the folds 0 to 4"))
    'held_out_folds [7]: this data set has the folds 0 to 4'
    """

    def __init__(self, setting: str, problem: str) -> None:
        """Args: the field's name; the value as it arrived, what is wrong with it and what would be right."""
        super().__init__(setting, problem)
        self.setting = setting
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.setting} {self.problem}"
