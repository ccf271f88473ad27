"""The words of the command line beside Lightning's: parse, call one function, print."""
