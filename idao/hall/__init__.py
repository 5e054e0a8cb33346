"""What idao can do, area by area. `idao.dao.Dao` is the door to all of it."""
