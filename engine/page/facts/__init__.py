"""What pages say: functions that ask the registry and return frozen data. They know nothing of HTML."""
