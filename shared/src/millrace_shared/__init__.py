"""The contracts every Millrace service speaks, and the bus client they speak them through."""
