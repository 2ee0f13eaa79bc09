from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('fleet', '0015_weights'),
    ]

    operations = [
        migrations.AddField(
            model_name='modelprofile',
            name='kv_dtype',
            field=models.CharField(blank=True, choices=[('auto', 'auto'), ('fp8', 'fp8'), ('int8', 'int8')], help_text='What they are stored as; empty: as the node is configured.', max_length=10, verbose_name='cached keys and values'),
        ),
    ]
